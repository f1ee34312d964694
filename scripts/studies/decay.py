"""How far weight decay alone moves the weights that ROSA adapts.

    python -m scripts.studies.decay task=cola model=mpnet_base protocol=fair data_dir=~/data

ROSA's factors hold a part of the pre-trained weight, and AdamW shrinks both at every step. What the gradients do not
restore is lost. This script makes a run without gradients, with its schedule and resamples, for each selection and
period. It reports the mean and the largest relative change of the adapted weights. LoRA's product starts at zero and
loses nothing. Full fine-tuning shrinks every weight as much as one factor, at its own learning rate. Source of figures
in docs/explanations.md. Four minutes on two CPU cores.
"""

import math
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from rosa_bench.api import compose, resolve
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.lowrank import SELECTIONS
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.rosa import Rosa
from rosa_bench.optim.schedule import lr_at
from rosa_bench.runs.run import recipe
from rosa_bench.training.state import Recipe
from scripts.arguments import setting, start
from scripts.reporting import Figures, relative_norms, write_report

PERIODS = {"never resampled": 0.0, "resampled every 2 epochs": 2.0, "resampled every epoch": 1.0}


def main(*overrides: str) -> None:
    """Decay for each selection and period, print, and write to results/benchmarks."""
    config = compose([*overrides, "method=rosa", "device=cpu"])
    problem = config.task.prepare(resolve(config).context)
    plan, steps_per_epoch = recipe(config, len(problem.train)), len(problem.train)
    total = plan.epochs * steps_per_epoch
    figures = {"one factor": {"lost": 1 - kept(plan, range(total), total)}}
    assert isinstance(config.method, Rosa)
    for select in SELECTIONS:
        for words, period in PERIODS.items():
            method = replace(config.method, select=select, resample_every=period, resample_unit="epochs")
            figures[f"{select}, {words}"] = moved(deepcopy(problem.model), method, plan, steps_per_epoch)
    name = f"decay_{config.task.name}_{config.model.name}_lr{config.lr:g}"
    write_report(name, figures, what=__doc__, device=torch.device("cpu"))


def kept(plan: Recipe, steps: range, total: int) -> float:
    """Return the fraction of a parameter that is left after AdamW's decay in some steps of a run."""
    return math.prod(
        1 - plan.lr * lr_at(step, total, plan.warmup_steps, plan.optimizer.schedule) * plan.optimizer.weight_decay
        for step in steps
    )


@torch.no_grad()
def moved(model: nn.Module, method: Rosa, plan: Recipe, steps_per_epoch: int) -> Figures:
    """Return how far a run without gradients moves the adapted weights, relative to their norms."""
    method.attach(model)
    layers, length = low_rank_layers(model), RunLength(steps_per_epoch, plan.epochs)
    total = length.total_steps
    start = [layer.merged_weight() for layer in layers]
    ends = [*method.due_steps(length), total]
    for begin, end in zip([0, *ends], ends, strict=False):
        left = kept(plan, range(begin, end), total)
        for layer in layers:
            layer.a.mul_(left)
            layer.b.mul_(left)
        if end < total:
            method.resample(model, end)
    changes = relative_norms(
        [layer.merged_weight() - weight for layer, weight in zip(layers, start, strict=True)], start
    )
    return {"mean": changes.mean().item(), "greatest": changes.max().item()}


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
