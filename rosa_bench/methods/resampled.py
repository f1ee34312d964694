"""Base class for low-rank methods that merge their factors and draw new ones at regular intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.methods.adapted import LowRankMethod
from rosa_bench.methods.base import Method, RunLength
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

UNITS = ("epochs", "steps", "run")


@dataclass(frozen=True, kw_only=True)
class Resampled(LowRankMethod):
    """A low-rank method that draws new factors every so many steps. Subclasses decide what they draw.

    A draw is numbered from 1. Draw number n is made before step ``ceil(n period / draws_per_period)``.
    """

    train: str = setting("which factors train: both, or A alone", default="both", before="both", choices=("both", "a"))
    resample_every: float = setting(
        "period of merging and drawing again, in resample_unit; 0 means never",
        default=0.0, before=0.0, at_least=0, at_most=1e9,
    )  # fmt: skip
    resample_unit: str = setting(
        "unit of resample_every; run: a fraction of the whole run", default="epochs", before="epochs", choices=UNITS
    )
    last_resample: float = setting(
        "fraction of the run after which nothing is drawn", default=1.0, before=1.0, at_least=0, at_most=1
    )
    rewarm_steps: int = setting(
        "steps after each draw over which the learning rate rises again to its schedule",
        default=0, before=0, at_least=0, at_most=10**9,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resample_unit == "run" and self.resample_every > 1:
            raise UserError(
                f"method.resample_every={self.resample_every:g} is longer than the run; "
                "with method.resample_unit=run it is a fraction, at most 1"
            )

    @property
    def train_b(self) -> bool:
        return self.train == "both"

    @property
    def later(self) -> tuple[str, ...]:
        """When to draw, and from which seed; a factor that does not train may be known by its seed alone."""
        seed = ("seed",) if self.train_b else ()
        return ("resample_every", "resample_unit", "last_resample", "rewarm_steps", *seed)

    @property
    def draws_per_period(self) -> int:
        """How many draws one period has."""
        return 1

    def elapsed(self, steps: int, length: RunLength) -> float:
        """Return how many steps' worth of draws is made in the first ``steps``. By default all steps count equally."""
        return steps

    def draws(self, step: int, length: RunLength) -> range:
        """Return the numbers of the draws that are made before this step, counted from 0."""
        return range(self._drawn(step - 1, length) + 1, self._drawn(step, length) + 1)

    def is_due(self, step: int, length: RunLength) -> bool:
        return bool(self.draws(step, length))

    def due_steps(self, length: RunLength) -> list[int]:
        """Return all steps of a run before which something is drawn."""
        return [step for step in range(length.total_steps) if self.is_due(step, length)]

    def before_training(self, model: nn.Module, length: RunLength) -> None:
        from rosa_bench.layers.low_rank import low_rank_layers

        first = self.is_due(0, length)  # a draw that no period counts
        directions = (self._drawn(length.total_steps - 1, length) + first) * self.rank // self.draws_per_period
        for layer in low_rank_layers(model):
            layer.reserve(directions)

    def lr_factor(self, step: int, length: RunLength) -> float:
        """Return the re-warm-up: from ``1 / (rewarm_steps + 1)`` in the step after a draw to 1, linearly."""
        drawn = self._drawn(step, length)
        period = resample_period(self.resample_every, self.resample_unit, length)
        if not self.rewarm_steps or not drawn or period is None:
            return 1.0
        latest = -(-drawn * period // self.draws_per_period)
        return min(1.0, (step - latest + 1) / (self.rewarm_steps + 1))

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Method.state`, including the residuals if draws change them."""
        return Method.state(self, model) if self.resample_every else super().state(model)

    def _drawn(self, step: int, length: RunLength) -> int:
        """Return how many draws are made before this step and all earlier ones."""
        period = resample_period(self.resample_every, self.resample_unit, length)
        if period is None:
            return 0
        if self.last_resample < 1:
            step = min(step, int(self.last_resample * length.total_steps + 1e-9))  # 0.29 x 100 is 28.999999999999996
        return int(self.elapsed(max(0, step), length) * self.draws_per_period // period)


def refuse(senseless: Mapping[str, object]) -> None:
    """Raise `UserError` with the first message whose combination of settings is found, if any is."""
    for words, found in senseless.items():
        if found:
            raise UserError(words)


def resample_period(every: float, unit: str, length: RunLength) -> int | None:
    """Return the steps of one period, at least 1, or None if nothing is ever drawn again.

    ``unit`` is ``epochs``, ``steps`` or ``run``, where ``every`` is a fraction of the run. The first period starts with
    the first step.
    """
    if not every:
        return None
    steps = 1 if unit == "steps" else length.steps_per_epoch if unit == "epochs" else length.total_steps
    return max(1, round(every * steps))
