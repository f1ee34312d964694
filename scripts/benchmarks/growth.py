"""How the cost of a training step on a CPU grows with rank, width, depth, runs in one pass, and draws.

`scripts.benchmarks.host` runs it. A step is forward, backward and AdamW on 32 x 16 tokens, with ROSA on the attention
of a small encoder with random weights. Each figure is the processor time over that of the first value of its quantity:
medians of repetitions in which all values take turns, on one thread.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from rosa_bench.api import compose
from rosa_bench.methods.base import RunLength
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.training.loop import optimisation
from rosa_bench.training.packed import Pack, own_copy
from rosa_bench.training.state import Recipe, Training
from scripts.benchmarks.step import random_batch
from scripts.reporting import Figures, interleaved

CPU = torch.device("cpu")
REPEATS, STEPS = 11, 16
BATCH = 32, 16  # rows, length


class Shape(NamedTuple):
    """What is varied; these are the values at which the others are kept."""

    rank: int = 8
    width: int = 128
    depth: int = 2
    runs: int = 1
    draws: int = 0


VARIED: dict[str, tuple[int, ...]] = {
    "rank": (2, 4, 8, 16, 32),
    "width": (128, 256, 512),
    "depth": (2, 4, 8),
    "runs": (1, 2, 4, 8),
    "draws": (0, 4, 8, 16),
}


def growth() -> Figures:
    """Return the relative time at every value of each quantity. With ``draws``, of `STEPS` steps with that many."""
    torch.set_num_threads(1)
    figures: Figures = {}
    for quantity, values in VARIED.items():
        actions = {f"{quantity}={value}": action(Shape()._replace(**{quantity: value})) for value in values}
        if quantity == "draws":
            actions = {f"draws={value}": steps_with_draws(value) for value in values}
        times = interleaved(actions, repeats=3 if quantity == "draws" else REPEATS, clock=time.process_time)
        first = next(iter(times.values()))
        figures |= {name: time_s / first for name, time_s in times.items()}
    return figures


def action(shape: Shape) -> Callable[[], object]:
    """Return one training step of a model of this shape, or of ``runs`` of them in one pass."""
    trainings = _trainings(shape)
    batch = random_batch(*BATCH, CPU)
    step = optimisation(trainings[0], nullcontext) if shape.runs == 1 else Pack(trainings, nullcontext).optimise
    return lambda: step(batch)


def steps_with_draws(draws: int) -> Callable[[], object]:
    """Return `STEPS` steps, of which the first ``draws`` each begin with a draw of all subspaces."""
    [training] = _trainings(Shape())
    batch, step = random_batch(*BATCH, CPU), optimisation(training, nullcontext)
    length = RunLength(steps_per_epoch=STEPS, epochs=1)

    def run() -> None:
        for number in range(STEPS):
            if number < draws:
                training.method.before_step(training.model, 1, length=length)
            step(batch)

    return run


def _trainings(shape: Shape) -> list[Training]:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=shape.width, num_hidden_layers=shape.depth, num_attention_heads=4, intermediate_size=4 * shape.width
    )
    model = AutoModelForSequenceClassification.from_config(config).train()
    use_fast_attention(model)
    words = ["method=rosa", f"rank={shape.rank}", "method.resample_every=1", "method.resample_unit=steps"]
    chosen = compose(["task=cola", "model=roberta_base", "protocol=fair", *words])
    chosen.method.attach(model)
    recipe = Recipe(lr=1e-4, epochs=1, warmup_steps=0, optimizer=chosen.optimizer, accumulate=1, reset="factors")
    models = [model, *(own_copy(model, chosen.method) for _ in range(shape.runs - 1))]
    return [Training(each, chosen.method, recipe, steps_per_epoch=STEPS, device=CPU) for each in models]
