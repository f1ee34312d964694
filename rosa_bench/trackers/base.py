"""Runs shown in the tools that people already use: TensorBoard, Weights & Biases, MLflow, trackio.

accelerate's trackers talk to the tools. Here is what they leave open: where a run is written, how one that broke off is
gone on with, and how it ended. A record has all the figures that a tool is sent, so a tool that fails costs no run.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from rosa_bench.system.errors import UserError
from rosa_bench.system.files import write_atomic

log = logging.getLogger(__name__)
Figures = dict[str, float]
Settings = dict[str, bool | int | float | str | None]


@dataclass(frozen=True, kw_only=True)
class Logger:
    """A tool that runs are shown in, as ``conf/logger`` sets it up. This one is no tool: it shows nothing.

    packages  what must be importable; raises `UserError` where it is not
    project   under which the tool groups runs
    folder    where it writes on this machine, if it does
    help      what to do when it cannot start
    """

    name: str
    packages: list[str]
    project: str
    folder: str
    help: str

    def __post_init__(self) -> None:
        if missing := [package for package in self.packages if find_spec(package) is None]:
            what = (
                f"the package {missing[0]}; install it" if len(missing) == 1 else f"{', '.join(missing)}; install them"
            )
            raise UserError(f"logger={self.name} needs {what}: pip install {' '.join(missing)}")

    @property
    def place(self) -> Path:
        """``folder`` as a path that holds wherever the process goes."""
        return Path(self.folder).expanduser().absolute()

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        """Accelerate's tracker for a new run of that name or, given its ``key``, for one that is there already."""

    def key(self, tracker: Any) -> str:
        """By what the tool knows the run."""
        raise NotImplementedError

    def end(self, tracker: Any, status: str, step: int) -> None:
        """Say how the run ended, and let go of it."""
        tracker.log({"status": status}, step=step)
        tracker.finish()


class Tracking:
    """One run as a logger shows it, from its start to its end.

    run       its name
    settings  its configuration; what is nested gets dotted keys
    kept      a file that remembers what was sent until the run is completed
    goes_on   whether the run goes on from a checkpoint: then so does what is shown, and no epoch is sent twice

    Raises `UserError` if the tool cannot start. What it raises later is a warning, the first time, and no more is sent.
    """

    def __init__(self, logger: Logger, *, run: str, settings: Mapping[str, Any], kept: Path, goes_on: bool):
        self.logger, self.kept, self.failed = logger, kept, False
        known = json.loads(kept.read_text(encoding="utf-8")) if goes_on and kept.exists() else {}
        if known.get("logger") != logger.name:
            known = {}
        self.epochs, self.step = known.get("epochs", 0), known.get("step", 0)
        self.tracker = self._start(run, flat(settings), known.get("key"))
        if self.tracker is not None:
            self._keep()

    def show_epochs(self, epochs: Sequence[Mapping[str, Any]], *, scored_on: str, steps_per_epoch: int) -> None:
        """Send those of a record's ``epochs`` that were not sent before, each at the optimizer step at its end."""
        if self.tracker is None:
            return
        while self.epochs < len(epochs) and not self.failed:
            with self._only_warned():
                step = (self.epochs + 1) * steps_per_epoch
                self.tracker.log(epoch_figures(epochs[self.epochs], scored_on), step=step)
                self.epochs, self.step = self.epochs + 1, step
                self._keep()

    def end(self, status: str, figures: Figures) -> None:
        """Send the last figures, and say how the run ended: its record's ``status``."""
        if self.tracker is None:
            return
        if not self.failed:
            with self._only_warned():
                self.tracker.log(figures, step=self.step)
        with self._only_warned():
            self.logger.end(self.tracker, status, self.step)
        if status == "completed":
            self.kept.unlink(missing_ok=True)

    def _start(self, run: str, settings: Settings, key: str | None) -> Any:
        if not self.logger.packages:  # logger=none
            return None
        from accelerate import PartialState

        PartialState(cpu=True)  # without it no tracker works; it is not to look for devices
        try:
            self.logger.place.mkdir(parents=True, exist_ok=True)
            with FileLock(self.logger.place / ".starting"):  # jobs that start at once would make one data base twice
                return self.logger.start(run, settings, key)
        except Exception as error:  # the tools have no error in common
            raise UserError(f"logger={self.logger.name} cannot start: {said(error)}; {self.logger.help}") from error

    def _keep(self) -> None:
        known = {"logger": self.logger.name, "key": self.logger.key(self.tracker)}
        write_atomic(self.kept, json.dumps({**known, "epochs": self.epochs, "step": self.step}))

    @contextmanager
    def _only_warned(self) -> Iterator[None]:
        """Let no error of the tool out, and tell the first. A server that is gone is not waited for again."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                log.warning("logger=%s failed and is sent no more: %s", self.logger.name, said(error))
            self.failed = True


def flat(settings: Mapping[str, Any]) -> Settings:
    """Nested settings by dotted keys; what is no single value becomes JSON."""
    found: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in flat(value).items()}
        else:
            found[key] = value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


def epoch_figures(epoch: Mapping[str, Any], scored_on: str) -> Figures:
    """What is sent of one of a record's epochs."""
    scores = {f"{scored_on}/{name}": score for name, score in epoch["scores"].items()}
    return {"train/loss": epoch["train_loss"], **scores, "time_s": epoch["time_s"]}


def end_figures(scores: Mapping[str, Any], time_s: Mapping[str, float], memory_bytes: Mapping[str, int]) -> Figures:
    """What is sent of a record when its run has ended, also if it broke off: the scores that count, time and memory."""
    chosen = {which: scores.get(which) or {} for which in ("selected", "last")}
    figures = {f"{which}/{name}": figure for which, those in chosen.items() for name, figure in those.items()}
    return {**figures, "total_time_s": time_s["total"], "peak_memory_bytes": max(memory_bytes.values(), default=0)}


def said(error: Exception) -> str:
    """An error's kind, and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('. ')}"
