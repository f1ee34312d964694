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
from rosa_bench.system.errors import UserError, check_pattern
from rosa_bench.system.setting import Checked, setting

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

Groups = list[ParameterGroup]


class RunLength(NamedTuple):
    """The length of a run: ``epochs``, each of ``steps_per_epoch`` optimizer steps. ``steps`` are all, if fewer."""

    steps_per_epoch: int
    epochs: int
    steps: int | None = None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.epochs if self.steps is None else self.steps


class Slice(NamedTuple):
    """One row or column of a parameter: the one at ``place`` along dimension ``dim``."""

    parameter: nn.Parameter
    dim: int
    place: int


class Rotation(NamedTuple):
    """A parameter (*n, out, r) whose gradient became ``gradient @ matrix`` by a change of basis, (*n, r, r).

    orthonormal  whether both bases are. If not, only the first moment is carried over
    """

    parameter: nn.Parameter
    matrix: Tensor
    orthonormal: bool = True


class Changed(NamedTuple):
    """What `Method.before_step` did to the model.

    With ``clear``, ``rotate`` or ``keep`` all other optimizer state is kept, even if the protocol would clear it.

    reset      parameters whose meaning changed, so their optimizer state is cleared
    clear      parts of parameters whose meaning changed, so only their moments are cleared
    rotate     parameters whose moments are carried to a new basis
    draws      how many draws the change counts as, in the record's ``resamples``
    retrain    whether the set of training parameters changed; those that stopped lose their state and gradient
    keep       whether the optimizer state of all other parameters is kept, even if the protocol would clear it
    recapture  whether captured CUDA graphs are out of date and must be dropped
    """

    reset: Sequence[nn.Parameter] = ()
    retrain: bool = False
    recapture: bool = False
    clear: Sequence[Slice] = ()
    rotate: Sequence[Rotation] = ()
    draws: int = 1
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(Checked, ABC):
    """The contract of a method with the training loop. The defaults suit a fixed set of trained parameters.

    supports_graphs  whether a training step with this method can be captured as a CUDA graph
    keeps_function   whether attaching it leaves the function of the model unchanged
    mergeable        whether `merge` turns the trained model into plain layers
    adapts_layers    whether all that trains, but the head, is in layers that it replaces, as in a LoRA adapter
    narrow_base      whether frozen weights may be stored in bfloat16: none of them trains, or is changed unnoticed
    packable         whether several runs can train in one pass: its layers have a form in `layers.packs.packed`
    offloadable      whether weights that train may wait in the CPU's memory: only the optimizer changes them, there
    takes_turns      whether only some of the declared parameters train at a time
    shardable        whether its weights may be sharded over several processes, unless `unshardable` says why not
    libraries        optional packages that it runs on, beside those of every run; records have their versions
    trains           whether parameters train. If not, the run has no steps and chooses among the method's `candidates`
    """

    name: str = setting("as on the command line", is_name=True)
    title: str = setting("as in a table", identity=False)
    seed: int = setting("of every random choice that the method makes", at_least=0, below=2**32)
    head: str = setting("regular expression for the modules that are the task's head")
    default_lr: dict[str, float] = setting(
        "learning rate by protocol when none is given: the best one measured", identity=False
    )
    look: dict[str, Any] = setting(
        "order, colour, marker and line in figures", default_factory=dict, identity=False, published=False
    )
    about: dict[str, Any] = setting(
        "for the catalogue: what trains; title, arxiv (or url) and year of the paper",
        default_factory=dict, identity=False, published=False,
    )  # fmt: skip

    section: ClassVar[str] = "method"
    supports_graphs: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    adapts_layers: ClassVar[bool] = False
    narrow_base: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    offloadable: ClassVar[bool] = False
    takes_turns: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    shardable: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pattern("method.head", self.head)

    @property
    def later(self) -> tuple[str, ...]:
        """Names of settings that decide only what is still to come, and not what a saved adapter computes."""
        return ()

    @property
    def unshardable(self) -> str | None:
        """Why a model with this method cannot be sharded over several processes; None if it can."""
        return None if self.shardable else f"method={self.name} cannot"

    def check_shapes(self, model: nn.Module) -> None:
        """Raise `UserError` unless the method fits the layers of a model, which may be on the meta device."""

    def check_saves(self, model: nn.Module) -> None:
        """Raise `UserError` if what `save` would write for this plain model could not be loaded again."""

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        """Freeze the model, insert the method's layers, and mark what trains. Return the model to train.

        This changes ``model`` in place and returns it, unless the method wraps it. ``calibration`` lazily yields
        training batches on the model's device, for a data-dependent initialisation. Raises `UserError` if the method
        does not fit the model.
        """
        self.check_shapes(model)
        model.requires_grad_(False)
        self.insert(model)
        self.mark_trainable(model)
        return model

    def mark_trainable(self, model: nn.Module) -> None:
        """Let the method's parameters train in a frozen model. Raises `UserError` if there are none."""
        for parameter in self.trainable(model):
            parameter.requires_grad_(True)
        if self.trains and not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"method={self.name} finds nothing to train in this model; choose another method")

    def insert(self, model: nn.Module) -> None:
        """Replace layers of the model without changing its function. By default nothing is replaced."""

    @abstractmethod
    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """Return every parameter that trains at any time, once the layers are inserted."""

    def before_training(self, model: nn.Module, length: RunLength) -> None:
        """Make room in an attached model for what a run of this length will add. By default nothing is needed."""

    def parameter_groups(self, model: nn.Module) -> Groups:
        """Return groups of parameters for the optimizer. By default there is one group, in the model's order.

        A group's optional ``lr_scale`` multiplies the run's scheduled learning rate.
        """
        chosen = {id(parameter) for parameter in self.trainable(model)}
        return [{"params": [parameter for parameter in model.parameters() if id(parameter) in chosen]}]

    def optimizer(self, groups: Groups, configured: Callable[[Groups], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """Make the optimizer. By default it is the one that the run configures."""
        return configured(groups)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a term to add to the loss once per step, or None. Training losses are reported without it.

        It is part of the captured step, so use only tensor operations that do not make the host wait.
        """
        return None

    def after_backward(self, model: nn.Module) -> None:
        """Act on the gradients before the optimizer's step. It is captured too, so use only tensor operations."""

    def candidates(self, model: nn.Module) -> list[str]:
        """Name the models to choose among, for a method that trains nothing. Each takes the place of an epoch."""
        return []

    def before_epoch(self, model: nn.Module, number: int) -> None:
        """Change the model before epoch ``number``, counted from 0: for example into a candidate.

        A resumed run calls it again, for the epoch in which it continues. It must write in place.
        """

    def is_due(self, step: int, length: RunLength) -> bool:
        """Return whether `before_step` has something to do before this step, counted from 0.

        This must be a pure function: the loop calls it at every step, and a resumed run calls it again.
        """
        return False

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        """Change the model before a step for which `is_due` is true, and return what has changed.

        ``headroom_bytes`` is the device memory available below the run's current peak, or None if unknown. ``loss``
        computes the loss of the coming batch, or of its first part if gradients are accumulated; it must leave no trace
        in the model. Raises ValueError if the model can no longer be changed.
        """
        return Changed()

    def basis_age(self, step: int, length: RunLength) -> int | None:
        """Return the greatest age of a weight that a draw before this step took directions from, in steps before it.

        None if there was no such draw, or if draws take directions from the current weight alone.
        """
        return None

    def lr_factor(self, step: int, length: RunLength) -> float:
        """Return the factor of the scheduled learning rate at this step. It must be a pure function, like `is_due`."""
        return 1.0

    def is_selectable(self, step: int, length: RunLength) -> bool:
        """Return whether the model after ``step`` steps may be selected. It must be a pure function, like `is_due`.

        If no epoch ends with such a model, the best of all is selected.
        """
        return True

    def merge(self, model: nn.Module) -> bool:
        """Turn the model's layers back into plain layers with the same function, and return True.

        A method that cannot be merged changes nothing and returns False. Its model is evaluated and saved unmerged.
        """
        from rosa_bench.layers.structure.surgery import restore_linears

        restore_linears(model)
        return True

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that training can change, by name, for a checkpoint or an adapter file."""
        from rosa_bench.layers.adapter import buffers

        chosen = {id(parameter) for parameter in self.trainable(model)}
        trained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
        return {**trained, **buffers(model)}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model into an existing folder, merged if possible."""
        model.save_pretrained(folder)  # pyrefly: ignore[not-callable] - every saved model is a transformers model

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        """Return the names of the layers whose updates are analysed. By default they match ``attention``."""
        from rosa_bench.layers.structure.surgery import linear_names

        return linear_names(model, attention)

    def head_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the parameters of the task's head."""
        from rosa_bench.layers.structure.surgery import name_matches

        modules = [module for name, module in model.named_modules() if name_matches(self.head, name)]
        return [parameter for module in modules for parameter in module.parameters()]
