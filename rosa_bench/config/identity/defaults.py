"""Today's settings of a task, model, method and protocol without other overrides: what a run is compared with."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.composing.placing import CHOSEN, placing
from rosa_bench.config.identity.run_id import free_settings, is_identity, public_config
from rosa_bench.system.errors import UserError

REFERENCE = re.compile(r"\$\{(\w+)\}")  # ${rank}


@dataclass(frozen=True)
class Default:
    """One setting: its place in a record's ``config``, and its default.

    follows  the free setting that it repeats, such as ``rank``; its default is then that setting's value in the run
    """

    place: tuple[str, ...]
    value: Any
    follows: str | None


@cache
def defaults_of(task: str, model: str, method: str, protocol: str) -> Mapping[str, Default] | None:
    """Return every setting that can change a score, by dotted key; the settings that a protocol leaves free are not in.

    None if one of the choices does not exist, or if they do not go together. Names may come from a record of unknown
    origin: they are compared with those of the files, never made a path.
    """
    names = dict(zip(CHOSEN, (task, model, method, protocol), strict=True))
    written, free = _composed(names), set(free_settings())
    if written is None:
        return None
    try:
        values = public_config(parse(written))
    except UserError:
        return None
    follows = {place: found[1] for place, value in _leaves(written) if (found := _reference(value))}
    return {
        key: Default(place, value, follows.get(place))
        for place, value in _leaves(values)
        if place[0] not in free and is_identity(key := ".".join(place))
    }


def composed(names: Mapping[str, str]) -> dict[str, Any]:
    """Return what Hydra composes for these choices, by group, with references unresolved (`Placing.composed`)."""
    found = _composed(names)
    assert found is not None
    return found


def _composed(names: Mapping[str, str]) -> dict[str, Any] | None:
    with composing():
        return placing().composed(names)


def _leaves(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the place and the value of each setting. A place is no dotted key: keys of a mapping may have dots."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _reference(value: Any) -> re.Match[str] | None:
    return REFERENCE.fullmatch(value) if isinstance(value, str) else None
