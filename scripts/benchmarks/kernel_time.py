"""Seconds a GPU spends in kernels during the last epoch of a run; the arguments are the run's settings.

    python -m scripts.benchmarks.kernel_time task=grammar model=tiny_roberta method=rosa epochs=2

Prints only the seconds. Kernels of a captured graph are counted one by one, without the gaps between them.
"""

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from rosa_bench.api import compose, resolve
from rosa_bench.runs.run import run
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training
from scripts.arguments import setting, start


class LastEpoch(Observer):
    """Profiles the last of a run's ``epochs``."""

    def __init__(self, profiler: profile, epochs: int):
        self.profiler, self.epochs = profiler, epochs

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        if number == self.epochs - 2:
            self.profiler.start()

    def on_train_end(self, training: Training) -> None:  # noqa: ARG002 - a hook point
        torch.cuda.synchronize()
        self.profiler.stop()


def main(*overrides: str) -> None:
    """Make the run and profile its last epoch."""
    config = compose(overrides)
    profiler = profile(activities=[ProfilerActivity.CUDA])
    run(resolve(config), [LastEpoch(profiler, config.epochs)])
    kernels = profiler.profiler.kineto_results.events()  # pyrefly: ignore[missing-attribute]
    seconds = sum(event.duration_ns() for event in kernels if event.device_type().name == "CUDA") / 1e9
    sys.stdout.write(f"{seconds:.4f}\n")


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
