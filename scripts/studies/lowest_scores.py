"""How close attention comes to scores at which cuDNN's gradients overflow, in the first steps of a run.

    python -m scripts.studies.lowest_scores task=e2e_nlg model=smollm2_135m method=lora protocol=fair lr=0.02 epochs=1

With a mask, and at some lengths, those gradients are not finite once the logsumexp of all scores of one query is below
-88.7 (`rosa_bench.models.attention.without_cudnn_attention`). Trains as ``rosa-bench`` would. Every 20 steps it reports
the training loss since the last report, the smallest logsumexp of any query of the next batch, and the share of layers
where it is below that bound. Source of figures in docs/explanations.md. Half an hour for 440 steps on two CPU cores.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rosa_bench.data.batches import to_device
from rosa_bench.models.attention import NAME
from rosa_bench.training.state import Training
from scripts.arguments import setting, start
from scripts.reporting import ready, train_watched, write_report

EVERY, STEPS = 20, 440
OVERFLOW = -88.7  # exp(88.7) is about the largest float32


def main(*overrides: str) -> None:
    """Train, watch, print, and write the figures to results/benchmarks."""
    resolved, problem = ready(*overrides)
    lowest: list[float] = []  # one per layer, in a watched forward pass
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
    write_report(name, seen, what=__doc__, device=resolved.device)


def least_logsumexp(query: Tensor, key: Tensor, mask: Tensor | None, *, scale: float) -> float:
    """Return the smallest logsumexp of any query's scores: query (batch, heads, queries, width)."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().mT * scale  # (batch, heads, queries, keys)
    return (scores if mask is None else scores + mask.float()).logsumexp(-1).min().item()


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
