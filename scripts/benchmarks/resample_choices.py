"""How long training waits for a draw, by the weight whose singular directions are drawn (method.svd_of).

    python -m scripts.benchmarks.resample_choices [results/benchmarks]

A model of square layers trains with ROSA, as a captured CUDA graph on a GPU. Each choice makes the same steps between
its draws. Prints a table and writes it as JSON, with these figures of each choice:

wait_s          how long training stops at a draw (median)
beyond_s        seconds per draw by which the steps and the draw take longer than as many steps of a run without draws
attach_s        to attach the method, with the first decomposition
ahead_s         to find the directions of one draw in the background, while nothing else runs (previous)
matrices        extra memory of the draw on the GPU, in float32 copies of one weight

On a GPU: 48 weights of 768 x 768, with a period of one CoLA epoch, and 16 of 4096 x 4096, or 2 with ``previous``. On a
CPU: 24 of 384 x 384. Beside each ``previous`` on a GPU, a thread decomposes the same weights on a stream of its own.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor, nn

from rosa_bench import api
from rosa_bench.layers.directions.earlier import upcoming
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.lowrank import select_indices, singular_directions
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.rosa import Rosa
from rosa_bench.system.resources.device import autocast
from rosa_bench.training.cuda_graphs import replaying
from scripts.arguments import RESULTS, existing_folder, start
from scripts.reporting import Figures, wait_for_gpu, with_extra_bytes, write_report

RANK = 8
FLOAT32_BYTES = 4
CHOICES = ("current", "previous", "initial")
Step = Callable[[], None]


def main(folder: Path = RESULTS) -> None:
    """Run every benchmark, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # (weights, size, steps between draws, draws, choices)
    on_gpu = [(48, 768, 268, 3, CHOICES), (16, 4096, 100, 1, ("current", "initial")), (2, 4096, 400, 1, ("previous",))]
    sizes = on_gpu if device.type == "cuda" else [(24, 384, 20, 3, CHOICES)]
    figures: dict[str, Figures] = {}
    for count, size, period, draws, choices in sizes:
        title = f"{count} of {size} x {size}"
        print(title, "threads", torch.get_num_threads(), flush=True)
        idle = alone(count, size, device, steps=period * draws)
        figures[title] = {"step_s": idle / (period * draws), "period": period}
        for choice in choices:
            figures[f"{title}, {choice}"] = waits(choice, count, size, device, period=period, draws=draws, idle_s=idle)
            print(title, choice, figures[f"{title}, {choice}"], flush=True)
        if device.type == "cuda" and "previous" in choices:
            figures[f"{title}, on a side stream"] = beside(count, size, device, steps=period)
            print(title, figures[f"{title}, on a side stream"], flush=True)
    write_report("resample_choices", figures, folder=folder, what=__doc__, device=device)


class Layers(nn.Module):
    """Square layers, one after another, with a residual stream."""

    def __init__(self, count: int, size: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) / len(self.layers)
        return x.float().square().mean()


@contextmanager
def training(method: Rosa, count: int, size: int, device: torch.device) -> Iterator[tuple[nn.Module, Step, float]]:
    """Yield a model with the method attached, a function that trains one step, and the seconds that attaching took."""
    torch.manual_seed(0)
    model = Layers(count, size).to(device)
    wait_for_gpu()
    started = time.perf_counter()
    method.attach(model)
    wait_for_gpu()
    attach_s = time.perf_counter() - started
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = {"x": torch.randn(512 if device.type == "cuda" else 32, size, device=device)}
    precision = autocast("bfloat16" if device.type == "cuda" else "float32", device)
    with materialised(model), replaying(device, "auto") as replay:
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, capturable=device.type == "cuda", foreach=True)

        def optimise(batch: dict[str, Tensor]) -> Tensor:
            with precision():
                loss = model(**batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        step = replay(optimise)
        for _ in range(3):
            step(batch)
        yield model, partial(step, batch), attach_s


def rosa(choice: str, period: int) -> Rosa:
    """Return ROSA on all layers, with a draw every ``period`` steps."""
    method = api.compose(["task=grammar", "model=tiny_roberta", "method=rosa", f"rank={RANK}"]).method
    assert isinstance(method, Rosa)
    return replace(method, svd_of=choice, targets="layers.*", resample_every=period, resample_unit="steps")


def alone(count: int, size: int, device: torch.device, *, steps: int) -> float:
    """Return the seconds that the steps take without a draw."""
    with training(rosa("current", steps), count, size, device) as (_, step, _):
        return seconds(lambda: [step() for _ in range(steps)])


def waits(
    choice: str, count: int, size: int, device: torch.device, *, period: int, draws: int, idle_s: float
) -> Figures:
    """Return how long training waits for draws, see the top of this file. ``idle_s`` is what its steps take alone."""
    method, length = rosa(choice, period), RunLength(period, draws + 2)
    with training(method, count, size, device) as (model, step, attach_s):
        memory: list[int] = []

        def draw(number: int) -> float:
            started = time.perf_counter()
            _, more = with_extra_bytes(
                lambda: method.before_step(model, number * period, length=length, headroom_bytes=1 << 30), device
            )
            wait_for_gpu()
            memory.append(more)
            return time.perf_counter() - started

        method.before_epoch(model, 0)
        ahead_s = 0.0
        if choice == "previous":
            ahead_s = seconds(lambda: upcoming(low_rank_layers(model)))
        waited: list[float] = []

        def run() -> None:
            for number in range(draws):
                for _ in range(period):
                    step()
                wait_for_gpu()
                waited.append(draw(number + 1))

        whole = seconds(run)
        figures = {
            "wait_s": statistics.median(waited),
            "beyond_s": (whole - idle_s) / draws,
            "attach_s": attach_s,
            "ahead_s": ahead_s,
        }
        if device.type == "cuda":
            figures["matrices"] = max(memory) / (FLOAT32_BYTES * size**2)
    return figures


def beside(count: int, size: int, device: torch.device, *, steps: int) -> Figures:
    """Return what a decomposition on the GPU, by a thread with a stream of its own, costs the steps meanwhile."""
    with training(rosa("initial", steps), count, size, device) as (model, step, _):
        weights = torch.stack([layer.merged_weight().detach() for layer in low_rank_layers(model)])
        chosen = select_indices((count,), size, RANK, generator=torch.Generator().manual_seed(0), device=device)
        stream = torch.cuda.Stream(device)
        took: list[float] = []

        def decompose() -> None:
            with torch.no_grad(), torch.cuda.stream(stream):
                parts = zip(weights, chosen, strict=True) if size > 1024 else [(weights, chosen)]
                started = time.perf_counter()
                for weight, numbers in parts:
                    singular_directions(weight, numbers)
                stream.synchronize()
                took.append(time.perf_counter() - started)

        decompose()  # warm up
        alone_s = took.pop()
        stepping = seconds(lambda: [step() for _ in range(steps)])

        def both() -> None:
            thread = Thread(target=decompose)
            thread.start()
            for _ in range(steps):
                step()
            thread.join()

        together = seconds(both)
        return {"alone_s": alone_s, "ahead_s": took[0], "beyond_s": together - stepping}


def seconds(action: Callable[[], object]) -> float:
    """Return how long the action takes, with the GPU's work."""
    wait_for_gpu()
    started = time.perf_counter()
    action()
    wait_for_gpu()
    return time.perf_counter() - started


if __name__ == "__main__":
    start(main, __doc__, existing_folder)
