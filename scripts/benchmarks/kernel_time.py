"""Seconds a GPU spends in kernels during the last epoch of a run; the arguments are the run's settings.

    python -m scripts.benchmarks.kernel_time task=grammar model=tiny_roberta method=rosa epochs=2

Prints only the seconds. Kernels of a captured graph are counted one by one, without the gaps between them.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rosa_bench.api import compose, resolve
from rosa_bench.runs import run as running
from rosa_bench.training.state import Epoch


def main(arguments: list[str]) -> None:
    """Make the run and profile its last epoch."""
    config = compose(arguments)
    profiler = profile(activities=[ProfilerActivity.CUDA])
    fit = running.fit

    def profiled(*given: Any, end_epoch: Callable[[int, Epoch], None], **options: Any) -> list[Epoch]:
        def ends(number: int, epoch: Epoch) -> None:
            end_epoch(number, epoch)
            if number == config.epochs - 2:
                profiler.start()

        history = fit(*given, end_epoch=ends, **options)
        torch.cuda.synchronize()
        profiler.stop()
        return history

    running.fit = profiled
    running.run(resolve(config))
    kernels = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    seconds = sum(event.duration_ns() for event in kernels if event.device_type().name == "CUDA") / 1e9
    sys.stdout.write(f"{seconds:.4f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
