"""Base class for methods whose layers stay in the model, because no plain layer computes the same function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rosa_bench.methods.adapter_files import SETTINGS, TENSORS, read_settings, read_tensors, unreadable, write_adapter
from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Inserted(Method):
    """A method that trains layers of its own inside a frozen model. It is saved as an adapter of the model.

    An adapter is a folder with two files. ``adapter.safetensors`` has the trained tensors and the head, by their names
    in the model. ``adapter.json`` has the method's class and settings. `load` puts both into the original model.
    """

    train_head: bool = setting("whether the task's head trains too")
    parts: dict[str, str] | None = setting("what the parts of a block are called in this model", default=None)

    mergeable: ClassVar[bool] = False

    @abstractmethod
    def inserted(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Return the parameters that train, except those of the head."""

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        yield from self.inserted(model)
        if self.train_head:
            yield from self.head_parameters(model)

    def merge(self, model: nn.Module) -> bool:
        return False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter: the trained tensors, the head whether or not it trained, and the settings."""
        write_adapter(self, model, self._kept(model), folder)

    @classmethod
    def load(cls, model: nn.Module, folder: Path) -> nn.Module:
        """Insert the adapter that `save` wrote into the original ``model``, and return the model.

        Raises `UserError` if the folder holds no adapter of this class, or one of another model.
        """
        method = cls._read(folder)
        stored = read_tensors(folder)
        method.attach(model)
        kept = method._kept(model)
        if {name: tensor.shape for name, tensor in stored.items()} != {name: p.shape for name, p in kept.items()}:
            raise UserError(
                f"{folder / TENSORS} is an adapter of another model; load it into the one it was trained on"
            )
        for name, parameter in kept.items():
            parameter.data.copy_(stored[name])
        return model

    @classmethod
    def _read(cls, folder: Path) -> Self:
        """Return the method with the settings stored in ``folder``."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        path = folder / SETTINGS
        adapter = read_settings(folder)
        if adapter["class"] != cls.__name__:
            raise UserError(f"{path} is an adapter of class {adapter['class']}; load it with that class")
        try:
            schema: Any = OmegaConf.structured(cls, flags={"readonly": False})  # or a frozen one could not be filled
            return OmegaConf.to_object(OmegaConf.merge(schema, adapter["settings"]))  # pyrefly: ignore[bad-return]
        except (ValueError, TypeError, OmegaConfBaseException) as error:
            raise unreadable(path, error) from error

    def _kept(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters that an adapter's file holds, by name."""
        chosen = {id(parameter) for parameter in (*self.inserted(model), *self.head_parameters(model))}
        return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
