"""The identity of a run: the settings that can change its scores, and the id made from them."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from rosa_bench.config.groups import GROUPS, kinds
from rosa_bench.config.schema import RunConfig
from rosa_bench.system.setting import ABSENT, Setting, settings_of

# Settings that no longer exist. Identities of older runs contain them, so they are put back.
REMOVED_SINCE: dict[str, Mapping[str, Any]] = {
    "protocol.lora_init": {"paper": "normal", "fair": "kaiming"},  # by protocol; now in LoRA's own yaml
}
# Identities contain the names that generators had when the first records were made.
GENERATOR_NAMES = {
    "grammar": "rosa_bench.data.grammar:sentences",
    "restaurants": "rosa_bench.data.restaurants:load",
    "synthetic_regression": "rosa_bench.problems.synthetic:sample",
}


def identity(config: RunConfig, *, data: str, model: dict[str, Any], device: str, precision: str) -> dict[str, Any]:
    """Return everything that can change the scores of a run, and nothing else.

    ``data`` and ``model`` identify the rows and the weights by content, not by place.
    """
    settings = _settings(config, _can_change_scores)
    for key, by_protocol in REMOVED_SINCE.items():
        group, _, name = key.partition(".")
        if config.protocol.name in by_protocol:
            settings[group][name] = by_protocol[config.protocol.name]
    if (generator := config.task.embedded) in GENERATOR_NAMES:
        settings["task"]["embedded"] = GENERATOR_NAMES[generator]
        data = data.replace(f"embedded {generator}", f"embedded {GENERATOR_NAMES[generator]}")
    return {**settings, "data": data, "weights": model, "device": device, "precision": precision}


def run_id(config: RunConfig, identity: dict[str, Any]) -> str:
    """Return ``<task>-<model>-<method>-r<rank>-lr<lr>-s<seed>-<hash>``; methods without a rank omit that part."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    rank = [f"r{config.method.rank}"] if hasattr(config.method, "rank") else []
    names = [config.task.name, config.model.name, config.method.name, *rank]
    return "-".join([*names, f"lr{config.lr:g}", f"s{config.seed}", digest])


def public_config(config: RunConfig) -> dict[str, Any]:
    """Return the configuration for a record, without settings that are specific to this machine."""
    return _settings(config, lambda known, _value: known.published)


def free_settings() -> list[str]:
    """Return the settings that every protocol leaves to the experiment."""
    return [declared.name for declared, known in settings_of(RunConfig) if known.free]


@cache
def is_identity(key: str) -> bool:
    """Return whether a setting, by its dotted key, can change a score. ``rank`` counts through its method."""
    return all(known.identity for known in _declarations(key))


def is_found(key: str, name: str) -> bool:
    """Return whether the choice ``name`` of a group finds this setting, by its dotted key, in the data."""
    return any(known.found for known in _declarations(key, name))


def value_before(key: str, name: str | None = None) -> Any:
    """Return the value that a setting, by its dotted key, has in records older than it; `ABSENT` if it has none.

    ``name`` is the choice from the setting's group, such as ``lora``: classes can differ in their settings.
    """
    return next((known.before for known in _declarations(key, name) if known.before is not ABSENT), ABSENT)


def _declarations(key: str, name: str | None = None) -> list[Setting]:
    """Return the declarations of a dotted key. Inside a group, each class with that setting has its own."""
    group, _, rest = key.partition(".")
    top = _declared(RunConfig).get(group)
    if top is None:
        return []
    if not top.identity or not rest:
        return [top]
    classes = kinds(group, name) if group in GROUPS else ()
    field = rest.partition(".")[0]
    return [_declared(kind)[field] for kind in classes if field in _declared(kind)]


def _settings(instance: Any, wanted: Callable[[Setting, Any], bool]) -> dict[str, Any]:
    """Return the settings of a dataclass, and of those inside it, whose declaration and value are ``wanted``."""
    found: dict[str, Any] = {}
    for declared, known in settings_of(instance):
        value = getattr(instance, declared.name)
        if wanted(known, value):
            found[declared.name] = _settings(value, wanted) if dataclasses.is_dataclass(value) else _plain(value)
    return found


def _can_change_scores(known: Setting, value: Any) -> bool:
    """Return whether a setting belongs to the identity: not at the value that was used before it existed."""
    return known.identity and value != known.before


def _plain(value: Any) -> Any:
    """Return a setting's value with dataclasses inside containers as dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


@cache
def _declared(kind: type) -> dict[str, Setting]:
    return {declared.name: known for declared, known in settings_of(kind)}
