"""Whether a value out of JSON has the shape that its readers count on."""

import json
from typing import Any

NUMBER = (int, float)
MAYBE_TEXT = (str, type(None))
SHOWN = 40  # characters of a value


def misfit(value: Any, shape: Any) -> str | None:
    """Where ``value`` does not have ``shape``, as ``config.seed is "0"``; none where it does.

    A shape is a type, or a tuple of types; a set of values, one of which is meant; a function that tells whether a
    value fits; ``[shape]``, a list of such; ``{key: shape}``, a mapping that has these keys, of which ``"key?"`` may be
    missing, and perhaps others; the key ``...`` stands for every key that there is.
    """
    found = _misfit(value, shape)
    return f"it{found}" if found and found.startswith(" ") else found and found.removeprefix(".")


def _misfit(value: Any, shape: Any) -> str | None:
    """As `misfit`, the keys each after a dot, for the caller to put its own before."""
    if isinstance(shape, dict):
        return _misfit_in_mapping(value, shape) if isinstance(value, dict) else _told(value)
    if isinstance(shape, list):
        return _misfit_in_list(value, shape[0]) if isinstance(value, list) else _told(value)
    if isinstance(shape, set):
        fits = any(value == choice for choice in shape)  # a list could not be looked up in a set
        return None if fits else f"{_told(value)}, not one of {', '.join(sorted(map(str, shape)))}"
    fits = isinstance(value, shape) if isinstance(shape, type | tuple) else shape(value)
    return None if fits else _told(value)


def _misfit_in_mapping(value: dict[str, Any], shape: dict[Any, Any]) -> str | None:
    for key, inner in shape.items():
        for name in value if key is ... else (key.rstrip("?"),):
            if name in value:
                if found := _misfit(value[name], inner):
                    return f".{name}{found}"
            elif not key.endswith("?"):
                return f".{name} is missing"
    return None


def _misfit_in_list(values: list[Any], inner: Any) -> str | None:
    for number, one in enumerate(values):
        if found := _misfit(one, inner):
            return f".{number}{found}"
    return None


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f" is {text if len(text) <= SHOWN else f'{text[:SHOWN]}...'}"
