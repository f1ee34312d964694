"""How far the singular directions of an earlier weight are from those of the current one (method.svd_of).

    python -m scripts.studies.earlier_directions task=grammar model=minilm protocol=fair

Trains with ROSA, drawing every 50 steps from the current weight. After 50 and 100 steps it looks at every
singular direction of the first weights, and of the weights 50 steps before. It reports, over all directions of all
adapted weights:

moved     norm of the weight's change, as a fraction of the weight's (mean over weights)
angle     between an earlier direction and the current one of the same number, in degrees (median)
nearest   between an earlier direction and the nearest current one, in degrees (median)
energy    the current weight's gain along an earlier direction, |W v| / s, minus 1, absolutely (median)
spread    standard deviation of the current singular values that an earlier direction mixes, as a fraction of the
          largest singular value (median)
random    the same spread for a random direction, for comparison

Source of figures in docs/explanations.md. One minute on two CPU cores.
"""

import math

import torch
from torch import Tensor

from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.lowrank import random_basis
from rosa_bench.training.state import Training
from scripts.arguments import setting, start
from scripts.reporting import Figures, ready, relative_norms, train_watched, write_report

PERIOD, LOOKS = 50, (50, 100)


def main(*overrides: str) -> None:
    """Train, look at the directions, print, and write to results/benchmarks."""
    period = (f"method.resample_every={PERIOD}", "method.resample_unit=steps")
    resolved, problem = ready(*overrides, "method=rosa", "device=cpu", *period)
    seen = {0: merged(problem.model)}
    figures: dict[str, Figures] = {}

    def look(training: Training, _loss: float) -> None:
        seen[training.step] = merged(training.model)
        if training.step in LOOKS:
            for then in sorted({0, training.step - PERIOD}):
                name = f"step {training.step}, of step {then}"
                figures[name] = compared(seen[then], seen[training.step])
                print(name, {key: f"{value:.3g}" for key, value in figures[name].items()}, flush=True)

    train_watched(problem, resolved, look, every=PERIOD, steps=max(LOOKS))
    config = resolved.config
    name = f"earlier_directions_{config.task.name}_{config.model.name}_lr{config.lr:g}"
    write_report(name, figures, what=__doc__, device=torch.device("cpu"))


def merged(model: torch.nn.Module) -> Tensor:
    """Return the adapted weights, which have one shape, in float64: (n, out, in)."""
    return torch.stack([layer.merged_weight().detach().double() for layer in low_rank_layers(model)])


def compared(then: Tensor, now: Tensor) -> Figures:
    """Return how far the singular directions of earlier weights are from those of the current ones."""
    old = torch.linalg.svd(then).Vh  # (n, in, in), a direction in each row
    _, values, new = torch.linalg.svd(now)
    cosines = (old @ new.mT).abs()  # (n, old, new)
    gain = torch.linalg.vector_norm(now @ old.mT, dim=-2)  # (n, old)
    random = random_basis(now.shape[:-2], now.shape[-1], now.shape[-1], generator=torch.Generator().manual_seed(0))
    return {
        "moved": relative_norms(list(now - then), list(then)).mean().item(),
        "angle": degrees(cosines.diagonal(dim1=-2, dim2=-1)),
        "nearest": degrees(cosines.amax(-1)),
        "energy": (gain / values - 1).abs().median().item(),
        "spread": spread(cosines, values).median().item(),
        "random": spread(random @ new.mT, values).median().item(),
    }


def degrees(cosines: Tensor) -> float:
    """Return the median angle, in degrees."""
    return math.degrees(cosines.clamp(max=1).acos().median().item())


def spread(cosines: Tensor, values: Tensor) -> Tensor:
    """Return the standard deviation of the singular values that each direction mixes, relative to the largest."""
    shares = cosines.square()  # (n, old, new), rows sum to 1
    mean = shares @ values.unsqueeze(-1)
    variance = shares @ values.square().unsqueeze(-1) - mean.square()
    return variance.clamp(min=0).sqrt().squeeze(-1) / values[:, :1]


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
