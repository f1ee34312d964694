"""Differences between the settings of a run and those of its protocol."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rosa_bench.config.composing.chosen_model import PLACES, model_overrides
from rosa_bench.config.composing.compose import Composer
from rosa_bench.config.composing.parse import checked_alone
from rosa_bench.config.composing.placing import CHOSEN
from rosa_bench.config.declared import literal
from rosa_bench.config.identity.run_id import free_settings, is_identity
from rosa_bench.config.overrides.grammar import written
from rosa_bench.config.schema import Plain, RunConfig


def deviations(raw: DictConfig, choices: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the settings in which a run differs from its protocol: key -> [value, the protocol's value].

    The protocol's values are those that the same task, model, method and protocol have with no other overrides.
    ``choices`` maps each configuration group to the chosen name. Hydra must be initialised.
    """
    expected = Composer().compose(tuple(f"{group}={choices[group]}" for group in CHOSEN))
    for key in free_settings():
        expected[key] = literal(Any, raw[key], key)
    for key in set(PLACES) & set(expected.model):  # a model's declaration may be found from them
        expected.model[key] = literal(Any, raw.model[key], key)
    return _differing(_plain(raw), _plain(expected))


def deviations_of(config: RunConfig) -> dict[str, list[Any]]:
    """Return the deviations of checked settings, however they were made. Hydra must be initialised."""
    model = config.model
    names = {group: getattr(config, group).name for group in CHOSEN}
    names |= model_overrides(model.name, path=model.path, hub=model.hub, revision=model.revision)
    expected = Composer().compose(tuple(f"{key}={written(value)}" for key, value in names.items()))
    for key in {field.name for field in fields(Plain)} & set(free_settings()):
        expected[key] = literal(Any, getattr(config, key), key)
    usual = checked_alone(expected)  # free settings, such as parallel=sharded, need not go with the protocol's others
    return _differing(asdict(config), {key: asdict(it) if is_dataclass(it) else it for key, it in usual.items()})


def _differing(settings: dict[str, Any], expected: dict[str, Any]) -> dict[str, list[Any]]:
    known = {field.name for field in fields(RunConfig)}  # other keys only provide values for these
    return {
        key: [value, usual]
        for key, value, usual in _pairs(settings, expected)
        if value != usual and key.partition(".")[0] in known and is_identity(key)
    }


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # pyrefly: ignore[bad-return]


def _pairs(settings: Mapping[str, Any], expected: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key of every value, the value, and the expected one: a dictionary if a section became null."""
    beside = expected if isinstance(expected, dict) else {}
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _pairs(value, beside.get(key), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value, beside.get(key)
