"""Run by test_resume.py: kill a run repeatedly, restart it each time, and compare it with an uninterrupted one.

Each line of its input is a list in JSON, and so is each answer:

    random FOLDER KILLS SEED OVERRIDE...     at random moments
    places FOLDER OVERRIDE...                at each critical place

The libraries are imported once, also those that a run imports late, and each run is a process forked from this one.
"""

import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import UNSET

from rosa_bench import lowrank
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.methods.rosa import Rosa
from rosa_bench.records.store import load_records
from rosa_bench.runs import run
from rosa_bench.runs.lock import locked
from rosa_bench.runs.outcome import recording
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.status import status_of
from rosa_bench.tasks.prepared import OnBatches, PreparedTask
from rosa_bench.training import checkpoint, state
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.observers.selection import BestEpoch
from rosa_bench.training.state import Training

torch.set_num_threads(1)
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
for late in ("rosa_bench.metrics.module", "sklearn.metrics", "rosa_bench.layers.storage.quantised_low_rank"):
    importlib.import_module(late)

Change = Callable[[], Observer | None]  # patches the program, or returns an observer of the run


def at_random(folder: Path, kills: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Kill processes until there have been ``kills`` kills, over as many whole runs as needed.

    Each process continues for a few checkpoints, and then for a random part of the time between two.
    """
    alone, killed = setup_in(folder / "alone", [*overrides, "checkpoint_s=1e6"]), setup_in(folder / "killed", overrides)
    assert ended(fork(alone))
    draw, results, steps, unfinished = random.Random(seed), [], [], 0
    while len(steps) < kills:
        for path in (folder / "killed").iterdir():
            shutil.rmtree(path)
        while True:
            child = fork(killed)
            if len(steps) < kills:
                wait_for_steps(killed, child, draw.randint(0, 8))
                time.sleep(draw.uniform(0, 0.03))
                os.kill(child, signal.SIGKILL)
            if ended(child):
                break
            steps.append(newest(killed))
            unfinished += any(killed.checkpoints.glob(".step-*"))
        results.append(result(killed))
    return {"steps": steps, "unfinished": unfinished, "alone": result(alone), "killed": results}


def newest(resolved: ResolvedRun) -> int:
    """Return the step of the newest checkpoint."""
    return max((int(path.name.split("-")[1]) for path in resolved.checkpoints.glob("step-*")), default=0)


def wait_for_steps(resolved: ResolvedRun, child: int, steps: int) -> None:
    """Wait until the run has made this many more steps, or has ended."""
    goal = newest(resolved) + steps
    while newest(resolved) < goal and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)


def at_places(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Kill one run at each place in turn. Also continue from half-way without parts of the state, which must show."""
    alone, killed = setup_in(folder / "alone", [*overrides, "checkpoint_s=1e6"]), setup_in(folder / "killed", overrides)
    assert ended(fork(alone))
    statuses, lacking = {}, {}
    for place, change in PLACES.items():
        assert not ended(fork(killed, change)), f"{place}: never reached"
        statuses[place] = status_of(killed).kind
        if place == HALF_WAY:
            for part in LACKING:
                shutil.copytree(folder / "killed", folder / part)
    for part, change in LACKING.items():
        resolved = setup_in(folder / part, [*overrides, "checkpoint_s=1e6"])
        assert ended(fork(resolved, change)), part
        lacking[part] = result(resolved)
    assert ended(fork(killed))
    return {"alone": result(alone), "killed": result(killed), "statuses": statuses, "lacking": lacking}


def setup_in(folder: Path, overrides: list[str]) -> ResolvedRun:
    """Return a run with these overrides, with its folders inside ``folder``."""
    where = [f"results_dir='{folder / 'results'}'", f"output_dir='{folder / 'outputs'}'"]
    with composing() as composer:
        resolved = resolve(parse(composer.compose((*overrides, *where))), {})
    resolved.config.task.prepare(resolved.context)  # so that its imports are done before the fork
    return resolved


def fork(resolved: ResolvedRun, change: Change = lambda: None) -> int:
    """Start a process that makes the run as the command line does, after applying ``change``."""
    gc.collect()
    gc.freeze()  # a run collects garbage, which would take as long as its steps, and copy the memory that is shared
    child = os.fork()
    if child == 0:
        status = 1
        try:
            observers = [observer for observer in (change(), Digest(resolved)) if observer is not None]
            with locked(resolved.lock, resolved.id):
                if status_of(resolved).kind != "completed":
                    run.run(resolved, observers)
            status = 0
        except Exception:
            traceback.print_exc()  # or nobody would learn why
        finally:
            os._exit(status)
    return child


class Digest(Observer):
    """Writes a hash of the last weights, which may differ from the selected ones, to a file."""

    def __init__(self, resolved: ResolvedRun):
        self.path = resolved.results_dir / "last weights"

    def on_train_end(self, training: Training) -> None:
        digest = hashlib.sha256()
        for name, tensor in training.model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        self.path.write_text(digest.hexdigest())


def ended(child: int) -> bool:
    """Wait for a process, and return False if it was killed. Raises RuntimeError if it failed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"the run ended with {os.WEXITSTATUS(status)}")
    return True


def result(resolved: ResolvedRun) -> dict[str, Any]:
    """Return everything that must not differ: the scores, the weights, and the files left on disk."""
    [record] = load_records(resolved.results_dir)
    for epoch in record.scores.epochs:
        epoch.time_s = None
    kept = (
        "id",
        "status",
        "resamples",
        "stopped",
        "forgetting",
        "config",
        "deviations",
        "data",
        "model",
        "device",
        "versions",
        "scores",
        "parameters",
    )
    return {
        **{name: None if (value := getattr(record, name)) is UNSET else value for name in kept},
        "phases": [sorted(record.time_s), sorted(record.memory_bytes)],
        "weights": [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(resolved.saved_model.glob("*.safetensors"))
        ],
        "last weights": (resolved.results_dir / "last weights").read_text(),
        "predictions": [path.read_text() for path in resolved.record_path.parent.glob("*.predictions.jsonl")],
        "left": sorted(path.name for path in resolved.output_dir.iterdir()),
        "locks": sorted(path.name for path in resolved.lock.parent.iterdir()),
    }


# The places


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(
    target: Any, name: str, *, call: int = 1, after: bool = False, when: Callable[..., bool] | None = None
) -> Change:
    """Return a change that kills the process at the ``call``-th call of a function for which ``when`` holds."""

    def change() -> None:
        real, calls = getattr(target, name), count(1)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            last = (when is None or when(*arguments)) and next(calls) == call
            if last and not after:
                die()
            answer = real(*arguments, **options)
            if last:
                die()
            return answer

        setattr(target, name, wrapped)

    return change


class DyingAt(Observer):
    """Kills the process at the ``call``-th call of a hook for which ``when`` holds."""

    def __init__(self, hook: str, *, call: int = 1, when: Callable[[Training], bool] = lambda _training: True):
        calls = count(1)

        def die_in_turn(training: Training, *_: Any) -> None:
            if when(training) and next(calls) == call:
                die()

        setattr(self, hook, die_in_turn)


def at_hook(hook: str, **options: Any) -> Change:
    return lambda: DyingAt(hook, **options)


def resample_is_due(training: Training) -> bool:
    return training.method.is_due(training.step, training.length)


def dying_inside_a_resample() -> None:
    """Kill the process when half of the layers have their new subspace and half the old one."""
    real, calls = lowrank.factorize, count(1)

    def factorize(*arguments: Any, **options: Any) -> Any:
        residuals, *factors = real(*arguments, **options)
        if next(calls) < 3:  # the first call is the initialisation
            return residuals, *factors
        return half(residuals), *factors

    def half(rows: torch.Tensor) -> Iterator[torch.Tensor]:
        assert len(rows) > 1
        yield from rows[: len(rows) // 2]
        die()

    lowrank.factorize = factorize


def named(start: str) -> Callable[..., bool]:
    return lambda path, *_: Path(path).name.startswith(start)


def dying_half_through_the_older() -> None:
    """Kill the process when only one of the two files of the older checkpoint is removed."""
    calls, real = count(1), shutil.rmtree

    def rmtree(path: str | Path, **options: Any) -> None:
        if Path(path).name.startswith("step-") and next(calls) == 2:
            Path(path, checkpoint.VALUES).unlink()
            die()
        real(path, **options)

    shutil.rmtree = rmtree  # pyrefly: ignore[bad-assignment]


# In the order in which a run reaches them. Work between the last checkpoint and a kill is done again.
PLACES: dict[str, Change] = {
    "before the first step": at_hook("on_step_start"),
    "before a resample": at_hook("on_step_start", call=2, when=resample_is_due),
    "inside a resample": dying_inside_a_resample,
    "after a resample": dying(Rosa, "before_step", call=2, after=True),
    "after clearing the optimizer's state": at_hook("on_method_change", call=2),
    "before the step is counted": dying(torch.optim.AdamW, "step", call=2, after=True),
    "checkpoint begun": dying(checkpoint, "save_file", call=2),
    "tensors written": dying(checkpoint, "save_file", call=2, after=True),
    "folder written": dying(Path, "rename", call=2, when=named(".step-")),
    "folder renamed": dying(Path, "rename", call=2, after=True, when=named(".step-")),
    "older half removed": dying_half_through_the_older,
    "older removed": dying(shutil, "rmtree", call=2, after=True, when=named("step-")),
    "before an evaluation": dying(OnBatches, "__call__"),
    "after an evaluation": dying(BestEpoch, "on_epoch_end"),
    "epoch offered": at_hook("on_epoch_end"),
    "before the last evaluation": dying(OnBatches, "__call__", call=2),
    "before dev is scored": dying(OnBatches, "__call__", call=2),
    "after merging": dying(Rosa, "merge", after=True),
    "dev scored": dying(OnBatches, "__call__", call=2, after=True),
    "model written": dying(Path, "rename", when=named(".model.")),
    "model saved": dying(PreparedTask, "save_model", after=True),
    "record saved": dying(recording, "save_record", after=True),
}
HALF_WAY = "epoch offered"


# States with a part missing


def zeroed(*parts: str) -> Change:
    """Return a change that zeroes checkpointed tensors whose names contain all of these words."""

    def change() -> None:
        real = checkpoint.Checkpoints.load

        def load(
            self: checkpoint.Checkpoints, check: Callable[[checkpoint.Snapshot], None] = lambda _: None
        ) -> checkpoint.Snapshot | None:
            found = real(self, check)
            assert found is not None
            lost = [name for name in found.tensors if all(part in name for part in parts)]
            assert lost
            return checkpoint.Snapshot(
                {**found.tensors, **{name: torch.zeros_like(found.tensors[name]) for name in lost}}, found.values
            )

        checkpoint.Checkpoints.load = load

    return change


def without_generators() -> None:
    state.restore_random_state = lambda _state, _device: None  # pyrefly: ignore[bad-assignment]


LACKING: dict[str, Change] = {
    "generators": without_generators,
    "moments": zeroed("training.optimizer.", ".exp_avg."),
    "step of the optimizer": zeroed("training.optimizer.step."),
    "residuals": zeroed("training.model.", ".residual"),
    "factors": zeroed("training.model.", ".a"),
    "losses": zeroed("training.losses"),
    "best weights": zeroed("best."),
}


if __name__ == "__main__":
    for line in iter(sys.stdin.readline, ""):
        what, place, *rest = json.loads(line)
        match what:
            case "random":
                answer = at_random(Path(place), int(rest[0]), int(rest[1]), rest[2:])
            case _:
                answer = at_places(Path(place), rest)
        print(json.dumps(msgspec.to_builtins(answer)), flush=True)
