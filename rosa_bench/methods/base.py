"""What every method is to the training loop, and what the methods share.

A method is its own settings: a frozen dataclass that checks itself, composed from ``conf/method/<name>.yaml``. The
files of this package import torch only inside functions, so that a wrong setting is told before torch is even loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """The contract between a method and the loop, which knows methods by nothing else.

    name        as on the command line; title: as in a table
    seed        of every random choice the method makes
    head        regular expression for the modules that are the task's head
    default_lr  learning rate by protocol, used when none is given: the best one measured
    """

    name: str
    title: str = setting("as in a table", identity=False)
    seed: int
    head: str
    default_lr: dict[str, float] = setting("learning rate by protocol: the best one measured", identity=False)

    def attach(self, model: nn.Module) -> None:
        """Freeze the model, insert the method's layers, and let its parameters train. The function stays the same."""
        model.requires_grad_(False)
        self.insert(model)
        for parameter in self.trainable(model):
            parameter.requires_grad_(True)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"method={self.name} finds nothing to train in this model; choose another method")

    def insert(self, model: nn.Module) -> None:  # noqa: B027 - a hook, not a duty
        """Replace layers of the model. Some methods replace none."""

    @abstractmethod
    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The parameters that train, once the layers are in."""

    def is_due(self, step: int, steps_per_epoch: int) -> bool:  # noqa: ARG002 - part of the contract
        """Whether `resample` is to be called before this step, counted from 0."""
        return False

    def resample(self, model: nn.Module, step: int, *, headroom_bytes: int | None = None) -> list[nn.Parameter]:  # noqa: ARG002
        """Draw a new subspace, inside the same parameters, and name those that no longer mean what they did.

        ``headroom_bytes`` of the device's memory may be used without raising the run's peak; none: little is.
        """
        return []

    def merge(self, model: nn.Module) -> None:
        """Make the model's layers plain again, with the same function."""
        from rosa_bench.layers.surgery import restore_linears

        restore_linears(model)

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        """Names of the layers whose weights' updates are looked at: here the model's ``attention``."""
        from rosa_bench.layers.surgery import linear_names

        return linear_names(model, attention)

    def head_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the task's head."""
        from rosa_bench.layers.surgery import name_matches

        modules = [module for name, module in model.named_modules() if name_matches(self.head, name)]
        return [parameter for module in modules for parameter in module.parameters()]
