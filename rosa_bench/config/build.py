"""Turn configuration values into checked dataclasses, using omegaconf's types."""

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.config.declared import UnfittingError, fitting, literal
from rosa_bench.system.errors import UserError
from rosa_bench.system.text.printable import printable, shortened

T = TypeVar("T")
KINDS = {
    "could not be converted to Integer": "a whole number",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
}
NO_LIST = "is not a ListConfig"
NULL = re.compile("(Incompatible value|Value) 'None' (for field|is incompatible)")
UNFIT = re.compile(rf"Value '(.*?)'(?: of type '\w+')? ({'|'.join(KINDS)})")
# Dataclasses made earlier from the same plain values: jobs of a large sweep share most settings, and none change.
_made: dict[Any, Any] = {}


def typed(kind: type[T], values: Mapping[str, Any] | DictConfig, *, at: str = "") -> T:
    """Return an instance of the dataclass ``kind``, filled with ``values``.

    ``at`` is the key of these values in the whole configuration. Raises `UserError`, which names the key, if a key is
    unknown or missing, or if a value has the wrong type; a number is not a text. Values are taken as they are: ``${``
    in a text has no meaning. ``kind`` itself may raise for a value out of range.
    Dataclasses inside ``kind`` must not be frozen, because omegaconf cannot fill those.
    """
    try:
        known = (kind, at, json.dumps(values))
    except TypeError:  # not plain values
        known = None
    if known is None:
        return _by_omegaconf(kind, values, at)
    if known not in _made:
        try:
            _made[known] = kind(**fitting(kind, values))
        except UnfittingError:
            _made[known] = _by_omegaconf(kind, values, at)
    return _made[known]


def _by_omegaconf(kind: type[T], values: Mapping[str, Any] | DictConfig, at: str) -> T:
    try:
        if isinstance(values, DictConfig):
            values = OmegaConf.to_container(values, resolve=True)  # pyrefly: ignore[bad-assignment]
        values = literal(kind, values, at)
        schema = OmegaConf.structured(kind, flags={"readonly": False})  # or omegaconf could not fill a frozen dataclass
        made: Any = OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        key = ".".join(filter(None, (at, error.full_key)))
        reason = str(error.msg or error).splitlines()[0]
        value = values.get(error.full_key) if error.full_key else None
        if NO_LIST in reason and isinstance(value, str | int | float):
            typed_in = printable(str(value))
            right = "put each text in it in quotes" if typed_in[:1] == "[" else f"write '{key}=[{typed_in}]'"
            raise UserError(f"{key}={typed_in} is not a list; {right}") from error
        if key and NULL.match(reason):
            raise UserError(f"{key}=null has no meaning; give a value, or leave it out") from error
        if key and (found := UNFIT.match(reason)):
            raise UserError(f"{key}={printable(found[1])} is not {KINDS[found[2]]}") from error
        raise UserError(shortened(f"{key}: {reason[0].lower()}{reason[1:]}" if key else reason)) from error
    return made


def build(base: type[T], settings: Mapping[str, Any] | DictConfig, *, at: str, default: type[T] | None = None) -> T:
    """Return an instance of the subclass of ``base`` named by ``_target_`` in ``settings``, or else of ``default``.

    Raises `UserError` if ``_target_`` does not name such a class of the base's own package, before anything is
    imported, and as `typed` does for a wrong key, type or value.
    """
    target = settings.get("_target_")
    package = base.__module__.partition(".")[0]
    if target is not None and not str(target).startswith(f"{package}."):  # importing another module would run it
        raise UserError(f"{at}._target_={target} is not a rosa_bench {base.__name__}")
    kind = default if target is None else imported(str(target), at)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{at}._target_={target} is not a rosa_bench {base.__name__}")
    return typed(kind, {str(key): value for key, value in settings.items() if key != "_target_"}, at=at)


def imported(target: str, at: str) -> Any:
    """Import the object that a ``_target_`` names. Raises `UserError`, with the key ``at``, if there is none."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{at}._target_={target} cannot be imported: {error}") from error
