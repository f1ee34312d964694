"""Today's settings of a task, model, method and protocol without other overrides: what a run is compared with."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from rosa_bench.config.compose import composing
from rosa_bench.config.folder import conf_folder, files_in
from rosa_bench.config.groups import names_in
from rosa_bench.config.identity import free_settings, is_identity, public_config
from rosa_bench.config.parse import parse
from rosa_bench.system.errors import UserError

CHOSEN: tuple[str, ...] = ("task", "model", "method", "protocol")  # the groups that a run picks by name
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
    if any(name not in names_in(group) for group, name in names.items()):
        return None
    written, free = composed(names), set(free_settings())
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
    """Return what Hydra composes for these choices, by group, with references unresolved, in a fraction of its time.

    Hydra composes each task once, and the files of the other groups are then put in place. If one of them has a
    defaults list, Hydra composes the whole.
    """
    whole = dict(_by_hydra((f"task={names['task']}",)))
    for group in CHOSEN[1:]:
        if whole[group]["name"] != names[group]:
            file = _read(files_in(group)[names[group]])
            if "defaults" in file:
                return _by_hydra(tuple(f"{group}={names[group]}" for group in CHOSEN))
            whole[group] = {**_read(conf_folder() / "config.yaml").get(group, {}), **file}
    return whole


def _leaves(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the place and the value of each setting. A place is no dotted key: keys of a mapping may have dots."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _reference(value: Any) -> re.Match[str] | None:
    return REFERENCE.fullmatch(value) if isinstance(value, str) else None


@cache
def _by_hydra(overrides: tuple[str, ...]) -> dict[str, Any]:
    with composing():
        return _plain(hydra.compose("config", overrides=list(overrides)))


@cache
def _read(path: Path) -> dict[str, Any]:
    return _plain(OmegaConf.load(path))


def _plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportReturnType]
