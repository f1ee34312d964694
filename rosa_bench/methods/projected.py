"""Base of the methods that train whole weights with an optimizer whose state lives in a small space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.adapted import TargetedMethod, check_rank
from rosa_bench.methods.base import Changed, Groups, Rotation, RunLength
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOMENTS = ("keep", "reset", "rotate")
REST = ("all", "head", "none")


@dataclass(frozen=True, kw_only=True)
class ProjectedMethod(TargetedMethod):
    """Trains the targets' weights. Their moments are those of a projected gradient; all else uses plain AdamW.

    moments ``keep``    a new projector leaves them as they are: GaLore, Fira and APOLLO
            ``reset``   they are cleared
            ``rotate``  they are carried to the new projector, as in LDAdam (arXiv 2410.16103), without its error
                        feedback; between random projectors only the first moment, which is Flora's momentum

    orthonormal  whether the columns of projectors are
    """

    orthonormal: ClassVar[bool] = True
    offloadable: ClassVar[bool] = True

    rank: int = setting("rank of the projected gradients", at_least=1, at_most=10**6, key="rank")
    scale: float = setting("factor of the projected weights' updates", above=0, at_most=1e9)
    update_every: int = setting("steps from one projector to the next", at_least=1, at_most=10**9)
    moments: str = setting("the optimizer's moments when the projector changes", choices=MOMENTS)
    rest: str = setting("what else trains: all other parameters, the head or none", choices=REST)

    @property
    @abstractmethod
    def rule(self) -> str:
        """The update: a key of `rosa_bench.optim.projected.RULES`."""

    @abstractmethod
    def projectors(self, model: nn.Module, step: int, loss: Callable[[], Tensor] | None) -> list[Tensor]:
        """Return the projectors to use from this step, one for each projected weight."""

    def check_shapes(self, model: nn.Module) -> None:
        for name in self.target_names(model):
            check_rank(self.rank, name, model.get_submodule(name).weight.shape)  # pyrefly: ignore[bad-argument-type]

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.surgery import untie
        from rosa_bench.layers.weights.projected import add_projector

        for name in self.target_names(model):
            untie(model, name)
            add_projector(model.get_submodule(name), self.rank)  # pyrefly: ignore[bad-argument-type]

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        from rosa_bench.layers.weights.projected import projected

        if self.rest == "all":
            return model.parameters()
        weights = [it.weight for it in projected(model)]
        return [*weights, *(self.head_parameters(model) if self.rest == "head" else [])]

    def parameter_groups(self, model: nn.Module) -> Groups:
        from rosa_bench.layers.weights.projected import projected

        every = list(projected(model))
        weights = {id(it.weight) for it in every}
        [group] = super().parameter_groups(model)
        others = [parameter for parameter in group["params"] if id(parameter) not in weights]
        small = {
            "params": [it.weight for it in every],
            "projectors": [it.projector for it in every],
            "transposed": [it.transposed for it in every],
        }
        return [small, {"params": others}] if others else [small]

    def optimizer(self, groups: Groups, configured: Callable[[Groups], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        from rosa_bench.optim.projected import ProjectedAdamW

        return ProjectedAdamW(configured(groups).param_groups, rule=self.rule, scale=self.scale)

    def is_due(self, step: int, length: RunLength) -> bool:
        return step % self.update_every == 0

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        from rosa_bench.layers.weights.projected import projected

        turns, weights = [], []
        for it, new in zip(projected(model), self.projectors(model, step, loss), strict=True):
            old = it.projector.clone()
            it.projector.copy_(new)
            turns.append(Rotation(it.weight, old.mT @ it.projector, self.orthonormal))
            weights.append(it.weight)
        if self.moments == "rotate":
            return Changed(rotate=turns)
        return Changed(reset=weights if self.moments == "reset" else (), keep=self.moments == "keep")

    def merge(self, model: nn.Module) -> bool:
        from rosa_bench.layers.weights.projected import remove_projectors

        remove_projectors(model)
        return True


@dataclass(frozen=True, kw_only=True)
class GradientProjected(ProjectedMethod):
    """Projects onto the leading singular vectors of the coming batch's gradient."""

    def projectors(self, model: nn.Module, step: int, loss: Callable[[], Tensor] | None) -> list[Tensor]:
        from rosa_bench.layers.weights.projected import gradient_projectors

        if loss is None:
            raise ValueError(f"method={self.name} needs the loss of a batch")
        return gradient_projectors(model, loss, self.rank)


@dataclass(frozen=True, kw_only=True)
class RandomProjected(ProjectedMethod):
    """Projects with Gaussian matrices that depend only on seed and step."""

    orthonormal: ClassVar[bool] = False

    def projectors(self, model: nn.Module, step: int, loss: Callable[[], Tensor] | None) -> list[Tensor]:
        from rosa_bench.layers.weights.projected import random_projectors

        return random_projectors(model, generator(self.seed, "projector", step))
