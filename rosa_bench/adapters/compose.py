"""The settings of a method for a model that no file in ``conf/model`` declares, composed as the command line does."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from torch import nn

from rosa_bench.config.build import build, typed
from rosa_bench.config.groups import kinds, names_in
from rosa_bench.config.identity.defaults import composed
from rosa_bench.methods.base import Method
from rosa_bench.models.auto.structure import NOTHING, check_adaptable, structure_of
from rosa_bench.system.errors import UserError, did_you_mean, one_of
from rosa_bench.system.setting import setting_of

ANY_TASK, ANY_MODEL = "cola", "roberta_base"  # nothing of them is read
FILE = "adapter_config"  # a setting that names a file of the user's, which an adapter of somebody else's must not
GIVEN = ("rank", "seed")  # settings of a run from which methods take theirs


class Chosen(NamedTuple):
    """A method with its settings, and the optimizer state that the protocol clears at a resample."""

    method: Method
    reset: str


def compose_method(model: nn.Module, name: str, settings: Mapping[str, Any], *, protocol: str) -> Chosen:
    """Return the method ``name`` for ``model``. What ``settings`` does not say comes from its yaml and the protocol.

    Raises `UserError` for an unknown name or setting, a wrong value, and a model that cannot be adapted.
    """
    one_of("method", name, names_in("method"))
    one_of("protocol", protocol, names_in("protocol"))
    check_adaptable(model)
    check_names(name, settings)
    settings = {key: _plain(value) for key, value in settings.items()}
    written = composed({"task": ANY_TASK, "model": ANY_MODEL, "method": name, "protocol": protocol})
    given = {key: settings[key] for key in GIVEN if key in settings}
    # A recipe belongs to a task, and there is none here.
    raw = OmegaConf.create({**written, "recipe": "otherwise", "model": asdict(structure_of(model)), **given})
    values: Any = OmegaConf.to_container(raw.method, resolve=True)
    own = {key: value for key, value in settings.items() if key not in GIVEN}
    if isinstance(own.get(FILE), str):
        own[FILE] = Path(own[FILE])  # no plain value, which `build` would know again after a change in the file
    method = build(Method, {**values, **own}, at="method")
    if getattr(method, "targets", None) == "attention" and getattr(method, "attention", None) == NOTHING:
        raise UserError(
            f"no attention was found in this {type(model).__name__}; name the layers to adapt with targets=, a regular "
            "expression, or use targets='all-linear'"
        )
    return Chosen(method, str(raw.protocol.optimizer_reset))


def check_names(name: str, settings: Mapping[str, Any]) -> None:
    """Raise `UserError` unless the method ``name`` has all these settings."""
    [kind] = kinds("method", name)
    known = [field.name for field in fields(kind) if _is_free(field.name, setting_of(field).published)]
    if "rank" not in known and "rank" in settings:
        raise UserError(f"method={name} has no rank; leave rank= out")
    for key in settings:
        if key not in known:
            raise UserError(f"{key} is not a setting of method={name}{did_you_mean(key, known)}")


def restored_method(adapter: Mapping[str, Any], *, called: str) -> Method:
    """Return the method that the settings file of an adapter describes. Raises `UserError` if none of ours fits."""
    settings = {key: value for key, value in adapter["settings"].items() if key != FILE}  # its values are in config
    for kind in kinds("method"):
        if kind.__name__ == adapter["class"]:
            return typed(kind, settings, at=f"{called}: method")
    raise UserError(
        f"{called} is an adapter of class {adapter['class']}, which this version of rosa_bench does not have"
    )


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's own."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def _is_free(field: str, published: bool) -> bool:
    return field not in ("name", "title", "default_lr") and (published or field == FILE)
