"""Throughput of a pack of K runs against one run, and its memory.

    python -m scripts.benchmarks.packing [results/benchmarks] [kernels]

Prints each figure as it is measured, and writes all as JSON. RoBERTa-base with random weights, bfloat16 and captured
steps on a GPU; MiniLM-L6's shape, float32 and fewer runs on a CPU. ``gain`` is K times the time of one run's step over
that of the pack's: medians of repetitions in which the two take turns. With ``kernels``, also lists the GPU kernels of
one step of eight runs by their time.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rosa_bench.api import compose
from rosa_bench.data.batches import Batch
from rosa_bench.layers.fused.stacked import LARGEST, materialised
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.system.resources.device import autocast, resolve_precision
from rosa_bench.system.resources.meter import release_unused
from rosa_bench.training.cuda_graphs import replaying
from rosa_bench.training.loop import optimisation
from rosa_bench.training.packed import Pack, own_copy
from rosa_bench.training.state import Recipe, Training
from scripts.arguments import RESULTS, existing_folder, one_of, start
from scripts.benchmarks.step import RANK, ours, random_batch
from scripts.reporting import Figures, interleaved, with_extra_bytes, write_report

REPEATS = 11
SHAPES = ((32, 16), (32, 128))


def main(folder: Path = RESULTS, kernels: str | None = None) -> None:
    """Run the benchmark for each method and shape, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    figures: dict[str, Figures] = {}
    for method in ("rosa", "lora"):
        for rows, length in SHAPES if on_gpu else SHAPES[:1]:
            title = f"{method} {rows} x {length}"
            counts = (1, 2, 4, 8, 16) if on_gpu else (2, 4)
            figures[title] = gains(method, random_batch(rows, length, device), counts, device, title)
    if kernels and on_gpu:
        show_kernels(device)
    write_report("packing", figures, folder=folder, what=__doc__, device=device)


def gains(method: str, batch: Batch, counts: tuple[int, ...], device: torch.device, title: str) -> Figures:
    """Return the time of one run's step, and gain and memory of packs of these sizes."""
    figures: Figures = {}
    for count in counts:
        release_unused()
        with ExitStack() as stack:
            alone, one_bytes = with_extra_bytes(partial(step_alone, stack, method, batch, device), device)
            packed, pack_bytes = with_extra_bytes(partial(step_packed, stack, method, count, batch, device), device)
            times = interleaved({"alone": alone, "packed": packed}, repeats=REPEATS if device.type == "cuda" else 3)
        found = {
            "one run, ms": 1e3 * times["alone"],
            f"{count} runs, ms a run": 1e3 * times["packed"] / count,
            f"{count} runs, gain": count * times["alone"] / times["packed"],
        }
        if device.type == "cuda":
            found |= {"one run, MB": one_bytes / 1e6, f"{count} runs, MB": pack_bytes / 1e6}
        print(title, {name: round(value, 3) for name, value in found.items()}, flush=True)
        figures |= found
    return figures


def prepared(method: str, device: torch.device) -> tuple[nn.Module, Any, Callable[[nn.Module, float], Training]]:
    """Return a model with a method attached, the method, and how to train a copy with a learning rate."""
    config = compose(["task=cola", f"method={method}", f"rank={RANK}", "model=roberta_base", "protocol=fair"])

    def training(model: nn.Module, lr: float) -> Training:
        recipe = Recipe(lr=lr, epochs=1, warmup_steps=0, optimizer=config.optimizer, accumulate=1, reset="factors")
        return Training(model, config.method, recipe, steps_per_epoch=1, device=device)

    return copy.deepcopy(attached(method, device)), config.method, training


@cache
def attached(method: str, device: torch.device) -> nn.Module:
    """Return the model with a method attached, made only once: random weights take seconds."""
    return ours(method, device)


def captured(
    stack: ExitStack, step: Callable[[Batch], Any], batch: Batch, device: torch.device
) -> Callable[[], object]:
    """Return the step as a captured graph, where there is a GPU."""
    stack.enter_context(without_cudnn_attention())
    replay = stack.enter_context(replaying(device, "always"))
    replayed = replay(step)
    for _ in range(3):
        replayed(batch)
    return lambda: replayed(batch)


def step_alone(stack: ExitStack, method: str, batch: Batch, device: torch.device) -> Callable[[], object]:
    """Return a step of one run, as fast as it is outside a pack."""
    model, _, training = prepared(method, device)
    precision = autocast(resolve_precision("auto", device), device)
    stack.enter_context(materialised(model, largest=LARGEST if device.type == "cuda" else 0))
    return captured(stack, optimisation(training(model, 1e-4), precision), batch, device)


def step_packed(stack: ExitStack, method: str, count: int, batch: Batch, device: torch.device) -> Callable[[], object]:
    """Return a step of ``count`` runs in one pass."""
    model, chosen, training = prepared(method, device)
    models = [model, *(own_copy(model, chosen) for _ in range(count - 1))]
    trainings = [training(each, 1e-4 * (1 + place)) for place, each in enumerate(models)]
    pack = Pack(trainings, autocast(resolve_precision("auto", device), device))
    return captured(stack, pack.optimise, batch, device)


def show_kernels(device: torch.device) -> None:
    """Print the kernels of one step of eight runs of ROSA, and of one run, longest first."""
    batch = random_batch(32, 16, device)
    for name, make in {
        "one run": lambda stack: step_alone(stack, "rosa", batch, device),
        "eight runs": lambda stack: step_packed(stack, "rosa", 8, batch, device),
    }.items():
        release_unused()
        with ExitStack() as stack:
            step = make(stack)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
                step()
                torch.cuda.synchronize()
        events = sorted(found.key_averages(), key=lambda one: -one.device_time_total)
        print(f"\n{name}: {sum(one.count for one in events)} kernels, us in all, count, name", flush=True)
        for one in events[:28]:
            print(f"{one.device_time_total:9.0f} {one.count:5d}  {one.key[:110]}", flush=True)


if __name__ == "__main__":
    start(main, __doc__, existing_folder, one_of("kernels"))
