"""ROSA: a random subspace of each weight trains, and a new one is drawn at regular intervals.

Source: Hameed et al., "ROSA: Random Subspace Adaptation for Efficient Fine-Tuning", arXiv 2407.07802, Algorithm 1.
We differ in two points. The first subspace is drawn before the first step, as in the authors' code. A resample writes
into the same parameters, so the optimizer, the schedule and captured graphs stay valid.

Beyond the paper, the directions may be those of an earlier weight (``svd_of``), so that training hardly waits for a
draw. The subspace may come from elsewhere than the weight's own directions (``basis``). A alone may train
(``train=a``), which with ``basis=random init=zero`` resembles Chen et al., "A Memory Efficient Randomized Subspace
Optimization Method for Training Large Language Models", arXiv 2502.07222. And directions may be drawn one at a time
(``stagger``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.base import Changed, Method, Rotation, RunLength, Slice
from rosa_bench.methods.draws import draw
from rosa_bench.methods.resampled import UNITS, Resampled, refuse
from rosa_bench.system.seeds import generator
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from rosa_bench.layers.low_rank import LowRankLinear

log = logging.getLogger(__name__)

# Memory for the first factorisation on a GPU, before training has shown its peak: less than any run takes.
HEADROOM_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Rosa(Resampled):
    """``W = residual + A B``, where A B is the part of W in a subspace, by default in its own singular directions.

    The record's ``resamples`` counts draws of a whole subspace or, with ``stagger``, of one direction of every weight.
    """

    narrow_base: ClassVar[bool] = True
    packable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    select: str = setting("which singular directions train (Table 5)", choices=("random", "block", "top", "bottom"))
    init: str = setting("what the factors start from (Table 4)", choices=("svd", "svd_add", "zero", "balanced"))
    resample_every: float = setting(
        "period of merging and drawing again, in resample_unit; 0 means never (Table 4)", at_least=0, at_most=1e9
    )
    resample_unit: str = setting("unit of resample_every; run: a fraction of the whole run", choices=UNITS)
    stagger: bool = setting(
        "draw one direction at a time, all of them once in each period", default=False, before=False
    )
    basis: str = setting(
        "where directions come from: the weight's SVD, chance, or the gradient of the coming batch",
        default="svd", before="svd", choices=("svd", "random", "gradient"),
    )  # fmt: skip
    svd_of: str = setting(
        "which weight's SVD: the current weight's; that of the previous draw's weight, found on the CPU while training "
        "goes on; or the initial weight's, found once",
        default="current", before="current", choices=("current", "previous", "initial"),
    )  # fmt: skip
    moments: str = setting(
        "the optimizer's moments at a draw: cleared, or carried to the new basis",
        default="reset", before="reset", choices=("reset", "rotate"),
    )  # fmt: skip
    default_resample_every: dict[str, Any] = setting(
        "resample_every by recipe, or by protocol and recipe, in epochs",
        default_factory=dict, identity=False, published=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        given, earlier = self.basis != "svd", self.svd_of != "current"
        senseless = {
            f"method.svd_of={self.svd_of} needs method.basis=svd; use method.svd_of=current": earlier and given,
            f"method.svd_of={self.svd_of} is for later draws, and method.resample_every=0 makes none; "
            "give a period, or use method.svd_of=current":
                earlier and not self.resample_every,
            f"method.svd_of={self.svd_of} gives whole bases, but method.stagger=true replaces one direction; "
            "use method.svd_of=current":
                earlier and self.stagger,
            "method.init=balanced needs the current weight's singular directions; "
            "use method.svd_of=current, or method.init=svd or zero":
                earlier and self.init == "balanced",
            "method.init=svd_add would add to the weights again at every resample; "
            "use it with method.resample_every=0, or use method.init=svd":
                self.init == "svd_add" and self.resample_every,
            f"method.init={self.init} needs singular directions; use method.basis=svd, or method.init=svd or zero":
                given and self.init in {"svd_add", "balanced"},
            f"method.select={self.select} chooses from singular directions; use method.basis=svd, or select=random":
                given and self.select != "random",
            "method.stagger=true draws nothing with method.resample_every=0; give a period":
                self.stagger and not self.resample_every,
            "method.stagger=true would draw the same leading direction each time with method.basis=gradient; "
            "use method.basis=svd or random":
                self.stagger and self.basis == "gradient",
            "method.moments=rotate needs method.train=a: if B trains too, its own moments have no new basis":
                self.moments == "rotate" and self.train != "a",
            "method.moments=rotate needs orthonormal directions; use method.init=svd or zero":
                self.moments == "rotate" and self.init == "balanced",
            "method.moments=rotate carries a whole basis, but method.stagger=true replaces one direction; "
            "use method.moments=reset, which keeps the moments of the others":
                self.moments == "rotate" and self.stagger,
        }  # fmt: skip
        refuse(senseless)

    @property
    def unshardable(self) -> str | None:
        odd = {
            "method.stagger": self.stagger,
            f"method.basis={self.basis}": self.basis == "gradient",
            f"method.svd_of={self.svd_of}": self.svd_of != "current",
            "method.moments=rotate": self.moments == "rotate",
        }
        return next((f"{key} needs whole weights" for key, holds in odd.items() if holds), None)

    @property
    def draws_per_period(self) -> int:
        return self.rank if self.stagger else 1

    def initialise(self, layers: list[LowRankLinear], generator: torch.Generator) -> None:
        whole = [layer.shape[-2:] for layer in layers if self.rank == min(layer.shape[-2:])]
        if whole:
            rows, columns = whole[0]
            log.warning(
                "rank %d is the full rank of %d of the %d adapted weights (%d x %d): they train whole, saving nothing",
                self.rank, len(whole), len(layers), rows, columns,
            )  # fmt: skip
        headroom_bytes = HEADROOM_BYTES if layers[0].a.is_cuda else None
        bases = None
        if self.svd_of == "initial":
            from rosa_bench.layers.directions.earlier import keep_directions

            keep_directions(layers, headroom_bytes=headroom_bytes)
            bases = self._initial_directions(layers, generator)
        draw(self, layers, generator, headroom_bytes=headroom_bytes, bases=bases)

    def insert(self, model: nn.Module) -> None:
        from rosa_bench.layers.directions.earlier import Drawn
        from rosa_bench.layers.low_rank import low_rank_layers

        super().insert(model)
        if self.svd_of == "previous":
            layers = low_rank_layers(model)
            for layer in layers:
                layer.drawn = Drawn(layer)
            if not any(layer.a.is_meta for layer in layers):
                self._note(layers, 0)

    def before_epoch(self, model: nn.Module, number: int) -> None:
        """Start what runs in the background: at first, and again in a resumed run."""
        if self.svd_of == "previous":
            from rosa_bench.layers.directions.earlier import start
            from rosa_bench.layers.low_rank import low_rank_layers

            start(low_rank_layers(model))

    def is_due(self, step: int, length: RunLength) -> bool:
        # A gradient needs a batch, so the random subspace of `initialise` is replaced before the first step.
        return super().is_due(step, length) or (step == 0 and self.basis == "gradient")

    def basis_age(self, step: int, length: RunLength) -> int | None:
        due = [at for at in range(step) if self.is_due(at, length)]
        if self.svd_of == "current" or not due:
            return None
        return due[-1] if self.svd_of == "initial" else max(later - at for at, later in pairwise([0, *due]))

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        from rosa_bench.layers.low_rank import low_rank_layers

        draws, layers = self.draws(step, length), low_rank_layers(model)
        if self.stagger:
            generator, parts = self.generator(step), []
            for index in ((number - 1) % self.rank for number in draws):
                draw(self, layers, generator, headroom_bytes=headroom_bytes, which=slice(index, index + 1))
                parts += [Slice(layer.a, -1, index) for layer in layers]
                parts += [Slice(layer.factors[1], -2, index) for layer in layers if self.train_b]
            return Changed(clear=parts, draws=len(draws))
        before = [layer.b.clone() for layer in layers] if self.moments == "rotate" else []
        replaced = self.resample(model, step, headroom_bytes=headroom_bytes, loss=loss)
        if before:
            turns = [Rotation(layer.a, old @ layer.b.mT) for layer, old in zip(layers, before, strict=True)]
            return Changed(rotate=turns, draws=len(draws))
        return Changed(reset=replaced, draws=len(draws))

    def resample(
        self,
        model: nn.Module,
        step: int,
        *,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> list[nn.Parameter]:
        """Merge and draw a new subspace, inside the same parameters. Return the parameters that were replaced.

        With ``svd_of=previous`` the next draw's directions are then sought in the background. Raises ValueError if a
        weight, or its gradient with ``basis=gradient``, holds NaN or Inf.
        """
        from rosa_bench.layers.directions.earlier import start, upcoming
        from rosa_bench.layers.directions.gradients import gradient_directions
        from rosa_bench.layers.low_rank import low_rank_layers

        layers, bases = low_rank_layers(model), None
        if self.basis == "gradient":
            if loss is None:
                raise ValueError("method.basis=gradient needs the loss of a batch")
            bases = gradient_directions(model, loss, self.rank)
        elif self.svd_of == "initial":
            bases = self._initial_directions(layers, self.generator(step))
        elif self.svd_of == "previous":
            bases = upcoming(layers)
        draw(self, layers, self.generator(step), headroom_bytes=headroom_bytes, bases=bases)
        if self.svd_of == "previous":
            self._note(layers, step)
            start(layers)
        return [factor for layer in layers for factor in layer.factors]

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Method.state`, including the residuals, because every resample changes them."""
        return Method.state(self, model)

    def _chosen(self, layers: list[LowRankLinear], generator: torch.Generator) -> list[Tensor]:
        """Choose, on the CPU, which singular directions each layer trains: (*n, r)."""
        from rosa_bench.lowrank import select_indices

        options = {"select": self.select, "generator": generator}
        return [select_indices(it.shape[:-2], min(it.shape[-2:]), self.rank, **options) for it in layers]

    def _initial_directions(self, layers: list[LowRankLinear], generator: torch.Generator) -> list[Tensor]:
        """Choose among the initial weights' directions: (*n, r, in) for each layer."""
        from rosa_bench.layers.directions.earlier import kept_rows

        return [kept_rows(*each) for each in zip(layers, self._chosen(layers, generator), strict=True)]

    def _note(self, layers: list[LowRankLinear], step: int) -> None:
        """Remember what was drawn before a step, and choose the directions of the draw that follows it."""
        from rosa_bench.layers.directions.earlier import drawn_of

        chosen = self._chosen(layers, generator(self.seed, "next subspace", step))
        for layer, numbers in zip(layers, chosen, strict=True):
            drawn_of(layer).note(layer, numbers)
