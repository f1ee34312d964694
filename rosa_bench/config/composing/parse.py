"""Turn a composed configuration into a checked one. Past this point, no code reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is reported at once.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from rosa_bench.config.build import build, typed
from rosa_bench.config.composing.interpolation import resolved
from rosa_bench.config.groups import GROUPS
from rosa_bench.config.schema import Plain, RunConfig, Shorthand, half_decades


def parse(raw: DictConfig | Mapping[str, Any]) -> RunConfig:
    """Return the checked settings of a composed configuration. Plain values may have references such as ``${rank}``.

    Raises `UserError`, which names the key, if a value is missing, has the wrong type or is out of range.
    """
    return RunConfig(**checked_alone(raw))


def checked_alone(raw: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `parse`'s settings, each checked, but not whether they go together."""
    values = resolved(raw)
    plain = vars(typed(Plain, {field.name: values[field.name] for field in fields(Plain)}))
    shorthand = typed(Shorthand, {field.name: values[field.name] for field in fields(Shorthand)})
    groups = {name: build(base, values[name], at=name, default=default) for name, (base, default) in GROUPS.items()}
    return {**plain, "lr": half_decades(plain["lr"], shorthand.lr_half_decades), **groups}
