"""From a configuration's values to a checked dataclass, by way of omegaconf's types."""

import importlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.system.errors import UserError

T = TypeVar("T")
# What was made of plain values before: the jobs of a large sweep share most of their settings, which nobody changes.
_made: dict[Any, Any] = {}


def typed(kind: type[T], values: Mapping[str, Any] | DictConfig, *, at: str = "") -> T:
    """An instance of the dataclass ``kind``, filled with ``values``; ``at`` is their key in the whole configuration.

    Raises `UserError`, which names the key, for one that is unknown or missing or whose value is of another type; and
    what ``kind`` itself raises for a value out of range. Dataclasses inside ``kind`` must not be frozen themselves:
    omegaconf could not fill them.
    """
    try:
        known = (kind, at, json.dumps(values))
    except TypeError:  # not plain values
        known = None
    if known in _made:
        return _made[known]
    try:
        schema = OmegaConf.structured(kind, flags={"readonly": False})  # a frozen dataclass would refuse to be filled
        made: Any = OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        key = ".".join(filter(None, (at, error.full_key)))
        reason = str(error.msg or error).splitlines()[0]
        raise UserError(f"{key}: {reason[0].lower()}{reason[1:]}" if key else reason) from error
    if known is not None:
        _made[known] = made
    return made


def build(base: type[T], settings: Mapping[str, Any] | DictConfig, *, at: str, default: type[T] | None = None) -> T:
    """The kind of ``base`` that ``settings`` describe: their ``_target_`` names its class, where it is not ``default``.

    Raises `UserError` for a class that is none, and as `typed` does for a wrong key, type or value.
    """
    target = settings.get("_target_")
    kind = default if target is None else imported(str(target), at)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{at}._target_={target} is not a rosa_bench {base.__name__}")
    return typed(kind, {str(key): value for key, value in settings.items() if key != "_target_"}, at=at)


def imported(target: str, at: str) -> Any:
    """Import what a ``_target_`` names. Raises `UserError`, naming the key ``at``, where there is no such thing."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{at}._target_={target} cannot be imported: {error}") from error
