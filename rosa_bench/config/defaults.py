"""Today's settings of a task, model, method and protocol without other overrides: what a run is compared with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from rosa_bench.config.compose import composing
from rosa_bench.config.folder import conf_folder
from rosa_bench.config.groups import names_in
from rosa_bench.config.identity import free_settings, is_identity, public_config
from rosa_bench.config.parse import parse
from rosa_bench.system.errors import UserError

CHOSEN = ("task", "model", "method", "protocol")  # the groups that a run picks by name
REFERENCE = re.compile(r"\$\{(\w+)\}")  # ${rank}


@dataclass(frozen=True)
class Defaults:
    """The settings that can change a score, by dotted key, in the words of a record.

    follows  keys that repeat a free setting, such as ``method.rank``: their default is that setting's value
    """

    values: Mapping[str, Any]
    follows: Mapping[str, str]


@cache
def defaults_of(task: str, model: str, method: str, protocol: str) -> Defaults | None:
    """Return the defaults of these choices; None if one of them does not exist, or if they do not go together.

    Names may come from a record of unknown origin: they are compared with those of the files, never made a path.
    """
    names = dict(zip(CHOSEN, (task, model, method, protocol), strict=True))
    if any(name not in names_in(group) for group, name in names.items()):
        return None
    written = composed(names)
    free = set(free_settings())
    named = {key: found[1] for key, value in flat(written).items() if (found := _reference(value))}
    try:
        values = flat(public_config(parse(OmegaConf.create(written))))
    except UserError:
        return None
    kept = {key: value for key, value in values.items() if key.partition(".")[0] not in free and is_identity(key)}
    return Defaults(kept, {key: name for key, name in named.items() if key in kept and name in free})


def composed(names: Mapping[str, str]) -> dict[str, Any]:
    """Return what Hydra composes for these choices, by group, with references unresolved, in a fraction of its time.

    Hydra composes each task once. The files of the other groups, which have no defaults lists, are then put in place.
    """
    whole = dict(_of_task(names["task"]))
    for group in CHOSEN[1:]:
        if whole[group]["name"] != names[group]:
            whole[group] = {**_read("config.yaml").get(group, {}), **_read(f"{group}/{names[group]}.yaml")}
    return whole


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _reference(value: Any) -> re.Match[str] | None:
    return REFERENCE.fullmatch(value) if isinstance(value, str) else None


@cache
def _of_task(task: str) -> dict[str, Any]:
    with composing():
        return _plain(hydra.compose("config", overrides=[f"task={task}"]))


@cache
def _read(file: str) -> dict[str, Any]:
    return _plain(OmegaConf.load(conf_folder() / file))


def _plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportReturnType]
