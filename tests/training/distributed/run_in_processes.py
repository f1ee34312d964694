"""Started by test_parallel.py, once for each process: make runs together, and write what they came to.

    RANK=0 WORLD_SIZE=2 ... python run_in_processes.py JOBS.json

A job has ``overrides`` and ``out``, where the first process writes what `Watch` saw. With ``stop`` the process of that
rank asks itself to stop before that step; with ``kill`` it is killed. A job with ``arguments`` is a mistake on the
command line: each process writes what the program prints, and its exit status.
"""

import gc
import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rosa_bench import api
from rosa_bench.cli.main import main
from rosa_bench.cli.messages import errors_reported
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.methods.base import Changed
from rosa_bench.system import processes
from rosa_bench.system.errors import StoppedError
from rosa_bench.system.tensors import whole
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training


class Watch(Observer):
    """Turns dropout off, and keeps each step's loss, the subspaces of each draw, and the weights after each epoch."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.tensors: dict[str, Tensor] = {}

    def on_train_start(self, training: Training) -> None:
        for module in training.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def on_method_change(self, training: Training, changed: Changed) -> None:  # noqa: ARG002 - a hook point
        for number, layer in enumerate(low_rank_layers(training.model)):
            b = whole(layer.b.detach()).clone()
            self.tensors[f"subspace {training.step} {number}"] = b.mT @ b

    def on_step_end(self, training: Training) -> None:
        self.losses[training.step] = float(training.losses[training.index - 1])

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        for name, tensor in training.method.state(training.model).items():
            self.tensors[f"weights {number} {name}"] = whole(tensor.detach()).clone()


class Act(Observer):
    """Sends this process a signal before a step."""

    def __init__(self, rank: int, step: int, number: int):
        self.rank, self.step, self.number = rank, step, number

    def on_step_start(self, training: Training) -> None:
        if training.step == self.step and processes.rank() == self.rank:
            os.kill(os.getpid(), self.number)


def perform(job: dict[str, Any]) -> None:
    """Make a job's run, and write what it came to. One that is asked to stop is left where it stopped."""
    if "arguments" in job:
        make_mistake(job)
        return
    watch, acts = Watch(), list[Act]()
    for name, number in (("stop", signal.SIGTERM), ("kill", signal.SIGKILL)):
        if name in job:
            rank, step = job[name]
            acts.append(Act(rank, step, number))
    try:
        api.run(job["overrides"], (watch, *acts))
    except StoppedError:
        if "stop" not in job:
            raise
    if processes.is_first():
        save_file({name: tensor.contiguous() for name, tensor in watch.tensors.items()}, f"{job['out']}.safetensors")
        Path(f"{job['out']}.json").write_text(json.dumps(watch.losses), encoding="utf-8")


def make_mistake(job: dict[str, Any]) -> None:
    printed, status = io.StringIO(), 0
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            main(job["arguments"])
    except SystemExit as end:
        status = int(end.code or 0)
    end = {"status": status, "printed": printed.getvalue()}
    Path(f"{job['out']}.{processes.rank()}.json").write_text(json.dumps(end), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_reported():
        for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            gc.freeze()  # a run collects garbage, which would take as long as its steps
            perform(one)
