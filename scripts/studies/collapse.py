"""Watch what happens inside a model as it collapses, in the first steps of a run.

    python -m scripts.studies.collapse task=cola model=mpnet_base protocol=fair method=lora lr=6e-3 data_dir=~/data

Trains a low-rank method as ``rosa-bench`` would, with its schedule, for at most one epoch. Every 20 steps it reports:
the training loss since the last report; the norms of the update, the residual and the product of the factors, each
relative to the initial weight (means over the adapted layers); and the mean cosine between the vectors that the head
reads, over all pairs of 32 sentences. Source of figures in docs/explanations.md. A few minutes per run on two cores.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.data.batches import Batch, to_device
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.training.state import Training
from scripts.arguments import setting, start
from scripts.reporting import Figures, ready, relative_norms, train_watched, write_report

EVERY, STEPS, SENTENCES = 20, 240, 32


def main(*overrides: str) -> None:
    """Train, watch, print, and write the figures to results/benchmarks."""
    resolved, problem = ready(*overrides)
    model = problem.model
    layers = low_rank_layers(model)
    start = [layer.merged_weight().detach() for layer in layers]
    batch = to_device(next(iter(problem.select.batches.epoch())), resolved.device)  # pyrefly: ignore[missing-attribute]
    sentences = {name: tensor[:SENTENCES] for name, tensor in batch.items() if name != "labels"}
    seen = {"step 0": {**sizes(layers, start), "likeness": likeness(model, sentences)}}

    def look(training: Training, loss: float) -> None:
        seen[f"step {training.step}"] = {
            "train_loss": loss, **sizes(layers, start), "likeness": likeness(model, sentences)
        }  # fmt: skip

    train_watched(problem, resolved, look, every=EVERY, steps=STEPS)
    write_report(f"collapse_{resolved.id}", seen, what=__doc__, device=resolved.device)


@torch.no_grad()
def sizes(layers: list[LowRankLinear], start: list[Tensor]) -> Figures:
    """Return the norms of update, residual and product of factors, relative to the initial weights."""
    kinds = {
        "update": [layer.merged_weight() - weight for layer, weight in zip(layers, start, strict=True)],
        "residual": [layer.residual for layer in layers],
        "product": [layer.scale * layer.a @ layer.b for layer in layers],
    }
    return {kind: relative_norms(tensors, start).mean().item() for kind, tensors in kinds.items()}


@torch.no_grad()
def likeness(model: PreTrainedModel, sentences: Batch) -> float:
    """Return the mean cosine between the vectors that the head reads, over pairs of sentences; 1 if all are equal."""
    training = model.training
    hidden = model.eval().base_model(**sentences).last_hidden_state[:, 0].float()  # (sentences, hidden)
    model.train(training)
    unit = nn.functional.normalize(hidden, dim=-1)
    cosines = unit @ unit.mT
    return ((cosines.sum() - len(unit)) / (len(unit) * (len(unit) - 1))).item()


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
