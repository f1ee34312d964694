"""How near attention comes to scores at which cuDNN's gradients overflow: the first steps of a run, watched.

    python -m scripts.studies.lowest_scores task=e2e_nlg model=smollm2_135m method=lora protocol=fair lr=0.02 epochs=1

With a mask, and at some lengths, those gradients are no numbers as soon as the logsumexp of all that one query sees is
below -88.7 (`rosa_bench.models.attention.without_cudnn_attention`). Trains as ``rosa-bench`` would, and looks every 20
steps at the training loss since; at the least logsumexp of any query of the next batch; and at the share of layers
where it is below that. Figures of docs/explanations.md come from here. Half an hour for 440 steps on two CPU cores.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rosa_bench.data.batches import to_device
from rosa_bench.models.attention import NAME
from rosa_bench.training.state import Training
from scripts.reporting import ready, train_watched, write_report

EVERY, STEPS = 20, 440
OVERFLOW = -88.7  # the exponential of its opposite is the greatest float32


def main() -> None:
    """Train, look, print and write what was seen to results/benchmarks."""
    resolved, problem = ready(*sys.argv[1:])
    lowest: list[float] = []  # of each layer, in a pass that is watched
    seen = {}

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any):
        if not torch.is_grad_enabled():
            lowest.append(least_logsumexp(query, key, mask, scale=options["scaling"]))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register(NAME, attend)

    def look(training: Training, loss: float) -> None:
        lowest.clear()
        with torch.no_grad():
            problem.model(**to_device(next(problem.train.epoch(start=training.index)), resolved.device))
        below = sum(least < OVERFLOW for least in lowest) / len(lowest)
        seen[f"step {training.step}"] = {"train_loss": loss, "least_logsumexp": min(lowest), "layers_below": below}

    train_watched(problem, resolved, look, every=EVERY, steps=STEPS)
    name = f"lowest_scores_{resolved.id}"
    write_report(name, seen, folder=Path("results/benchmarks"), what=__doc__, device=resolved.device)


def least_logsumexp(query: Tensor, key: Tensor, mask: Tensor | None, *, scale: float) -> float:
    """Of any query, over what it sees: query (batch, heads, queries, width), key (batch, groups, keys, width)."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().mT * scale  # (batch, heads, queries, keys)
    return (scores if mask is None else scores + mask.float()).logsumexp(-1).min().item()


if __name__ == "__main__":
    main()
