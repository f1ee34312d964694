"""The contract between a fine-tuning method and the training loop.

A method is a frozen dataclass that checks its own settings. It is composed from ``conf/method/<name>.yaml``. The files
of this package import torch only inside functions, so a wrong setting is reported before torch is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rosa_bench.optim.base import ParameterGroup
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Checked, setting

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

Groups = list[ParameterGroup]


class Changed(NamedTuple):
    """What `Method.before_step` did to the model.

    reset      parameters that no longer mean what they did: their optimizer state is cleared
    retrain    other parameters train now: those that stopped lose their optimizer state and gradient
    recapture  captured CUDA graphs no longer compute the right step: they are dropped
    """

    reset: Sequence[nn.Parameter] = ()
    retrain: bool = False
    recapture: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(Checked, ABC):
    """Everything the training loop knows about a method. The defaults suit one that trains a fixed set of parameters.

    supports_graphs  whether a training step with this method can be captured as a CUDA graph
    """

    name: str = setting("as on the command line")
    title: str = setting("as in a table", identity=False)
    seed: int = setting("of every random choice that the method makes")
    head: str = setting("regular expression for the modules that are the task's head")
    default_lr: dict[str, float] = setting(
        "learning rate by protocol when none is given: the best one measured", identity=False
    )
    look: dict[str, Any] = setting(
        "order, colour, marker and line in figures", default_factory=dict, identity=False, published=False
    )

    section: ClassVar[str] = "method"
    supports_graphs: ClassVar[bool] = True

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:  # noqa: ARG002
        """Freeze the model, insert the method's layers, and mark what trains. Return the model to train.

        That is ``model`` itself, changed in place, unless the method wraps it. ``calibration`` yields training batches
        on the model's device, for starts that depend on the data; a batch is made only when it is asked for. Raises
        `UserError` if the method does not fit the model.
        """
        model.requires_grad_(False)
        self.insert(model)
        for parameter in self.trainable(model):
            parameter.requires_grad_(True)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"method={self.name} finds nothing to train in this model; choose another method")
        return model

    def insert(self, model: nn.Module) -> None:
        """Replace layers of the model. The function must stay the same. By default nothing is replaced."""

    @abstractmethod
    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Return every parameter that trains at some time, once the layers are in."""

    def parameter_groups(self, model: nn.Module) -> Groups:
        """Return groups of parameters for the optimizer: one by default, in the model's own order.

        A group's optional ``lr_scale`` multiplies the run's learning rate, whatever its schedule.
        """
        chosen = {id(parameter) for parameter in self.trainable(model)}
        return [{"params": [parameter for parameter in model.parameters() if id(parameter) in chosen]}]

    def optimizer(self, groups: Groups, configured: Callable[[Groups], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """Make the optimizer: by default the one that the run's settings configure."""
        return configured(groups)

    def penalty(self, model: nn.Module) -> Tensor | None:  # noqa: ARG002
        """Return a term to add to the loss once per step, or None. Training losses are reported without it.

        It is part of the captured step: tensor operations only, nothing that makes the host wait.
        """
        return None

    def after_backward(self, model: nn.Module) -> None:
        """Act on the gradients before the optimizer's step. Part of the captured step: tensor operations only."""

    def is_due(self, step: int, steps_per_epoch: int) -> bool:  # noqa: ARG002
        """Return whether `before_step` has something to do before this step, counted from 0.

        A pure function of its arguments: the loop asks at every step, and a resumed run asks again.
        """
        return False

    def before_step(self, model: nn.Module, step: int, *, headroom_bytes: int | None = None) -> Changed:  # noqa: ARG002
        """Change the model before a step for which it `is_due`, and say what has changed.

        ``headroom_bytes`` is how much of the device's memory may be used without raising the run's peak, if known.
        Raises ValueError for a model that cannot be changed any more.
        """
        return Changed()

    def merge(self, model: nn.Module) -> bool:
        """Turn the model's layers back into plain ones with the same function, and return True.

        A method that cannot be merged changes nothing and returns False. Its model is evaluated and saved as it is.
        """
        from rosa_bench.layers.surgery import restore_linears

        restore_linears(model)
        return True

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that training can change, by name: what a checkpoint or an adapter file holds."""
        chosen = {id(parameter) for parameter in self.trainable(model)}
        trained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
        return {**trained, **dict(model.named_buffers())}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model, merged where that is possible, into an existing folder."""
        model.save_pretrained(folder)  # pyright: ignore[reportCallIssue] - every model that is saved is transformers'

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        """Return the names of the layers whose updates are analysed: by default the model's ``attention``."""
        from rosa_bench.layers.surgery import linear_names

        return linear_names(model, attention)

    def head_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of the task's head."""
        from rosa_bench.layers.surgery import name_matches

        modules = [module for name, module in model.named_modules() if name_matches(self.head, name)]
        return [parameter for module in modules for parameter in module.parameters()]
