"""Code that benchmarks and studies share: preparing and training a run, timing, and writing a report."""

import json
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from rich import box, get_console
from rich.table import Table
from torch import Tensor

from rosa_bench import api
from rosa_bench.records.provenance import git_state, versions
from rosa_bench.records.record import without_undefined
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.runs.run import recipe
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.resources.device import autocast, describe
from rosa_bench.system.resources.meter import Meter, peak_bytes, reset_peak
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.loop import fit
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training
from scripts.arguments import RESULTS

Figures = dict[str, float]
T = TypeVar("T")

ROBERTA_BASE = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}  # MiniLM-L6


def ready(*overrides: str) -> tuple[ResolvedRun, PreparedTask]:
    """Return a run that is ready to train: its model is on its device and its method attached."""
    resolved = api.resolve(api.compose(overrides))
    problem = resolved.config.task.prepare(resolved.context)
    problem.model.to(resolved.device)  # pyrefly: ignore[bad-argument-type]
    resolved.config.method.attach(problem.model)
    return resolved, problem


class EnoughError(Exception):
    """Raised once the requested number of steps is done."""


def train_watched(
    problem: PreparedTask, resolved: ResolvedRun, look: Callable[[Training, float], None], *, every: int, steps: int
) -> None:
    """Train the first ``steps`` steps of a run with its schedule, within the first epoch.

    ``look`` is called after every ``every`` steps with the mean training loss since the last call.
    """

    class Look(Observer):
        def on_step_end(self, training: Training) -> None:
            if training.step % every == 0 and training.index:
                look(training, training.losses[training.index - every : training.index].mean().item())
            if training.step == min(steps, len(problem.train) - 1):
                raise EnoughError

    with suppress(EnoughError):
        fit(
            problem.model,
            resolved.config.method,
            problem.train,
            recipe=recipe(resolved.config, len(problem.train)),
            evaluate=lambda: problem.select(problem.model).scores,
            autocast=autocast(resolved.precision, resolved.device),
            meter=Meter(resolved.device),
            observers=[Look()],
        )


def interleaved(
    actions: Mapping[str, Callable[[], object]], *, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Figures:
    """Return the median seconds of each action. They take turns, so that a noisy moment affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()  # warm up
    for _ in range(repeats):
        for name, action in actions.items():
            wait_for_gpu()
            started = clock()
            action()
            wait_for_gpu()
            times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def with_extra_bytes(action: Callable[[], T], device: torch.device) -> tuple[T, int]:
    """Return the result of ``action``, and its peak GPU memory above what was already allocated; 0 on a CPU."""
    if device.type == "cpu":
        return action(), 0
    before = torch.cuda.memory_allocated(device)
    reset_peak(device)
    return action(), peak_bytes(device) - before


def wait_for_gpu() -> None:
    """Wait until the GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def relative_norms(tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the Frobenius norm of each tensor divided by that of its weight, (tensors,)."""
    return torch.stack([one.norm() / weight.norm() for one, weight in zip(tensors, weights, strict=True)])


def short_name(device: torch.device, name: str) -> str:
    """Return a device's name for file names: ``cpu``, ``h200``, ``geforce-rtx-4090``."""
    return "cpu" if device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia "))


def command() -> str:
    """Return the command that started this program: a module by its name, not by its path on this machine."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]]).replace(f"{Path.home()}/", "~/")


def write_report(
    name: str,
    figures: Mapping[str, Figures],
    *,
    what: str | None,
    device: torch.device,
    folder: Path = RESULTS,
    facts: Mapping[str, Any] | None = None,
    printed: bool = True,
) -> None:
    """Write figures with their provenance to ``<name>_<device>_<date>.json``, and print them as a table.

    A figure that is not a finite number is written as null. ``facts`` are written beside the figures.
    """
    now = datetime.now(UTC)
    described = describe(device)
    report = {
        "what": (what or "").partition("\n")[0],
        "command": command(),
        "device": described,
        "versions": versions(),
        "git": msgspec.to_builtins(git_state()),
        "measured_at": now.isoformat(timespec="seconds"),
        "figures": figures,
        **(facts or {}),
    }
    path = folder / f"{name}_{short_name(device, str(described['name']))}_{now:%Y-%m-%d}.json"
    write_atomic(path, json.dumps(without_undefined(report), indent=1) + "\n")
    if not printed:
        return
    table = Table("benchmark", "figure", "value", box=box.SIMPLE)
    for group_name, group in figures.items():
        for key, value in group.items():
            table.add_row(group_name, key, f"{value:.4g}")
    get_console().print(table)
    get_console().print(f"written to {path}", soft_wrap=True)
