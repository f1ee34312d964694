"""AdaLoRA: LoRA in the form of an SVD, whose least important singular values are set to zero as training goes on.

Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv 2303.10512,
with the layers of Hugging Face PEFT. The schedule follows the length of the run. As in the paper's Algorithm 1, and
unlike PEFT, importance is taken from the weights and gradients of one and the same step. As in PEFT and in the authors'
code, the penalty is a mean of norms, where the paper adds up their squares. We differ from all of them in that singular
values which the last allocation removes also lose their optimizer state, and then stay at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rosa_bench.methods.base import Changed, RunLength, Slice
from rosa_bench.methods.peft.tuner import ADAPTER, PeftTuner, tuned_layers
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rosa_bench.layers.tuned import Tuned

FACTORS = ("lora_A", "lora_E", "lora_B")  # (r, in), (r, 1), (out, r): W + scale B diag(E) A
OWN = {  # PEFT's settings in whose place this method has its own, with PEFT's defaults
    "target_r": 8, "init_r": 12, "r": 8, "tinit": 0, "tfinal": 0, "deltaT": 1, "total_step": 1, "orth_reg_weight": 0.5,
}  # fmt: skip


class Tracked(NamedTuple):
    """A factor, and the running means of its entries' importance and of how far it strays from its mean."""

    factor: nn.Parameter
    mean: Tensor
    deviation: Tensor

    @property
    def score(self) -> Tensor:
        """How much each entry matters: smoothed importance times uncertainty, section 3.2 of the paper."""
        return self.mean * self.deviation


@dataclass(frozen=True, kw_only=True)
class AdaLora(PeftTuner):
    """Starts with ``initial`` times the rank, and ends with ``rank`` on average over the layers."""

    drives: ClassVar[tuple[str, ...]] = ("ADALORA",)

    rank: int = setting("mean rank at the end", at_least=1, at_most=10**6, key="rank")
    initial: float = setting("rank at the start, as a multiple of rank", at_least=1, at_most=100)
    every: int = setting("steps from one allocation to the next", at_least=1, at_most=10**9)
    warm_up: float = setting("fraction of the run before the first allocation", at_least=0, below=1)
    final: float = setting("fraction of the run after the last allocation", at_least=0, below=1)
    orthogonality: float = setting("weight of the penalty that keeps A and B orthogonal", at_least=0, at_most=1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in OWN:
            if key in self.config:
                raise UserError(
                    f"method.config.{key} is not for method=adalora: use rank= and "
                    "method.initial, every, warm_up, final or orthogonality"
                )
        if self.warm_up + self.final >= 1:
            raise UserError(
                f"method.warm_up={self.warm_up:g} and method.final={self.final:g} leave nothing of the run between "
                "them; their sum must be below 1"
            )

    @property
    def initial_rank(self) -> int:
        """The rank of every layer at the start."""
        return max(self.rank, round(self.initial * self.rank))

    @property
    def values(self) -> dict[str, Any]:
        return {**super().values, "target_r": self.rank, "init_r": self.initial_rank, "total_step": 1}  # ours decides

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        import torch

        model = super().attach(model, calibration)
        for _, layer in tuned_layers(model):
            for name in FACTORS:
                factor = factor_of(layer, name)
                layer.register_buffer(f"mean_{name}", torch.zeros_like(factor))
                layer.register_buffer(f"deviation_{name}", torch.zeros_like(factor))
            layer.register_buffer("kept", torch.ones_like(factor_of(layer, "lora_E")))
        return model

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return the mean of |A A^T - 1| and |B^T B - 1| (Frobenius) over all factors, times ``orthogonality``."""
        import torch

        if not self.orthogonality:
            return None
        pairs = [(factor_of(layer, "lora_A"), factor_of(layer, "lora_B")) for _, layer in tuned_layers(model)]
        grams = [gram for a, b in pairs for gram in (a @ a.mT, b.mT @ b)]
        one = torch.eye(self.initial_rank, device=grams[0].device, dtype=grams[0].dtype)
        return self.orthogonality * torch.stack([torch.linalg.norm(gram - one) for gram in grams]).mean()

    def after_backward(self, model: nn.Module) -> None:
        """Update the importance of all entries, and keep removed singular values where they are."""
        import torch

        beta1, beta2 = self.config.get("beta1", 0.85), self.config.get("beta2", 0.85)
        with torch.no_grad():
            for layer, tracked in self._tracked(model):
                for factor, mean, deviation in tracked:
                    gradient = factor.grad  # None in a layer that the loss does not use
                    importance = torch.zeros_like(factor) if gradient is None else (factor * gradient).abs()
                    mean.lerp_(importance, 1 - beta1)
                    deviation.lerp_((importance - mean).abs(), 1 - beta2)
                if (gradient := factor_of(layer, "lora_E").grad) is not None:
                    gradient.mul_(layer.get_buffer("kept"))

    def phases(self, length: RunLength) -> tuple[int, int]:
        """Return the numbers of steps after which singular values begin to be removed, and are for the last time."""
        total = length.total_steps
        first = int(self.warm_up * total + 1e-9)
        return first, max(first + 1, total - int(self.final * total + 1e-9))

    def is_due(self, step: int, length: RunLength) -> bool:
        first, last = self.phases(length)
        return first < step <= last and (step % self.every == 0 or step == last)

    def budget(self, step: int, length: RunLength, *, layers: int) -> int:
        """Return how many singular values all layers keep, by the cubic schedule of the paper's section 3.3."""
        first, last = self.phases(length)
        left = 1 - (step - first) / (last - first)
        return layers * self.rank + int(layers * (self.initial_rank - self.rank) * left**3)

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        import torch

        with torch.no_grad():
            tracked = list(self._tracked(model))
            scores = [e.score.squeeze(1) + a.score.mean(1) + b.score.mean(0) for _, (a, e, b) in tracked]
            kept = keep_largest(scores, self.budget(step, length, layers=len(tracked)))
            for (_, (_, e, _)), keep in zip(tracked, kept, strict=True):
                e.factor.mul_(keep[:, None])
            if step < self.phases(length)[1]:
                return Changed(keep=True, draws=0)  # a removed value may grow again until the next allocation
            removed = []
            for (layer, (_, e, _)), keep in zip(tracked, kept, strict=True):
                layer.get_buffer("kept").copy_(keep[:, None])
                removed += [Slice(e.factor, 0, place) for place in (~keep).nonzero().flatten().tolist()]
            return Changed(clear=removed, keep=True, draws=0)

    def _tracked(self, model: nn.Module) -> Iterator[tuple[Tuned, list[Tracked]]]:
        """Yield each layer with its factors A, E and B, and their importance."""
        for _, layer in tuned_layers(model):
            yield layer, [_tracked(layer, name) for name in FACTORS]


def factor_of(layer: Tuned, name: str) -> nn.Parameter:
    """Return one of the factors ``lora_A``, ``lora_E`` and ``lora_B`` of a layer."""
    return layer.tuned.get_parameter(f"{name}.{ADAPTER}")


def _tracked(layer: Tuned, name: str) -> Tracked:
    return Tracked(factor_of(layer, name), layer.get_buffer(f"mean_{name}"), layer.get_buffer(f"deviation_{name}"))


def keep_largest(scores: list[Tensor], count: int) -> list[Tensor]:
    """Return which of all scores are among the ``count`` largest, as a list of masks like ``scores``."""
    import torch

    together = torch.cat(scores)
    keep = torch.zeros_like(together, dtype=torch.bool)
    keep[together.argsort(descending=True, stable=True)[:count]] = True
    return list(keep.split([len(score) for score in scores]))


def from_peft(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate PEFT's settings, which count steps, into ours: its schedule becomes fractions of ``total_step``.

    Raises `UserError` if a value is out of range, or if the schedule leaves no step for allocations.
    """
    known = {**OWN, **{key: value for key, value in config.items() if key in OWN and value is not None}}
    for key, value in known.items():
        kinds = (int, float) if isinstance(OWN[key], float) else (int,)
        least = 1 if key in ("target_r", "init_r", "deltaT", "total_step") else 0
        if type(value) not in kinds or not value >= least:
            raise UserError(f"method.config.{key}={value} is out of range; it must be a number of at least {least}")
    if known["init_r"] < known["target_r"]:
        raise UserError(
            f"method.config.init_r={known['init_r']} is below target_r={known['target_r']}: AdaLoRA lowers ranks, and "
            "PEFT fails when it would raise them; set init_r to target_r or more"
        )
    total, outside = known["total_step"], known["tinit"] + known["tfinal"]
    if outside >= total:
        raise UserError(
            f"method.config.total_step={total} leaves nothing after the {outside} of tinit and tfinal; "
            "set it higher: a run has their shares of it, whatever its length"
        )
    return {
        "rank": known["target_r"],
        "initial": known["init_r"] / known["target_r"],
        "every": known["deltaT"],
        "warm_up": known["tinit"] / total,
        "final": known["tfinal"] / total,
        "orthogonality": known["orth_reg_weight"],
    }
