"""Report runs to experiment trackers: TensorBoard, Weights & Biases, MLflow or trackio.

accelerate's trackers talk to the tools. This package adds what they leave out: where a run is stored, how an
interrupted run is continued, and how a run ended. Every number sent is also in the record, so a tracker that fails does
not spoil the run.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from rosa_bench.system import processes
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic

log = logging.getLogger(__name__)
Metrics = dict[str, float]
Settings = dict[str, bool | int | float | str | None]


@dataclass(frozen=True, kw_only=True)
class Logger:
    """An experiment tracker as configured in ``conf/logger``. This base class, ``logger=none``, reports nothing.

    packages  packages that must be installed
    project   the tracker's name for the group of runs
    folder    where the tracker writes on this machine, if it does
    help      advice for when the tracker cannot start

    Raises `UserError` if a package is not installed.
    """

    name: str
    packages: list[str]
    project: str
    folder: str
    help: str

    def __post_init__(self) -> None:
        if missing := [package for package in self.packages if find_spec(package) is None]:
            packages = "the package" if len(missing) == 1 else "the packages"
            raise UserError(
                f"logger={self.name} needs {packages} {', '.join(missing)}; run: pip install {' '.join(missing)}"
            )

    @property
    def path(self) -> Path:
        """``folder`` as an absolute path, which stays valid when the working directory changes."""
        return Path(self.folder).expanduser().absolute()

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        """Return accelerate's tracker for a new run of this name or, given its ``key``, for an existing run."""

    def key(self, tracker: Any) -> str:
        """Return the tool's own identifier of the run."""
        raise NotImplementedError

    def end(self, tracker: Any, status: str, step: int) -> None:
        """Report how the run ended, and close it."""
        tracker.log({"status": status}, step=step)
        tracker.finish()


class Tracking:
    """Report one run to a tracker, from start to end.

    run         name of the run
    settings    its configuration; nested settings get dotted keys
    state_file  file that records what was sent, until the run is completed
    resuming    whether the run resumes from a checkpoint: it then continues the same run in the tracker, and no epoch
                is sent twice

    Raises `UserError` if the tracker cannot start. If it fails later, one warning is logged and nothing more is sent.
    """

    def __init__(self, logger: Logger, *, run: str, settings: Mapping[str, Any], state_file: Path, resuming: bool):
        self.logger, self.state_file, self.failed = logger, state_file, False
        state = sent_before(state_file, logger.name) if resuming else {}
        self.epochs, self.step = state.get("epochs", 0), state.get("step", 0)
        self.tracker = self._start(run, flatten(settings), state.get("key"))
        if self.tracker is not None:
            self._save_state()

    def show_epochs(self, epochs: Sequence[Mapping[str, Any]], *, scored_on: str, steps_per_epoch: int) -> None:
        """Send the ``epochs`` of a record that were not sent before, each at the optimizer step where it ends."""
        if self.tracker is None:
            return
        while self.epochs < len(epochs) and not self.failed:
            with self._errors_as_warnings():
                step = (self.epochs + 1) * steps_per_epoch
                self.tracker.log(epoch_metrics(epochs[self.epochs], scored_on), step=step)
                self.epochs, self.step = self.epochs + 1, step
                self._save_state()

    def end(self, status: str, metrics: Metrics) -> None:
        """Send the final metrics and the record's ``status``, and close the run."""
        if self.tracker is None:
            return
        if not self.failed:
            with self._errors_as_warnings():
                self.tracker.log(metrics, step=self.step)
        with self._errors_as_warnings():
            self.logger.end(self.tracker, status, self.step)
        if status == "completed":
            with self._errors_as_warnings():
                self.state_file.unlink(missing_ok=True)

    def _start(self, run: str, settings: Settings, key: str | None) -> Any:
        if not self.logger.packages or not processes.is_first():  # the first would be logger=none
            return None
        from accelerate import PartialState

        PartialState(cpu=True)  # every tracker needs it; cpu=True keeps it from initialising devices
        try:
            self.logger.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.logger.path / ".starting"):  # jobs that start together would create one database twice
                return self.logger.start(run, settings, key)
        except Exception as error:  # the tools share no base class for errors
            raise UserError(
                f"logger={self.logger.name} cannot start: {describe_error(error)}; {self.logger.help}"
            ) from error

    def _save_state(self) -> None:
        run = {"logger": self.logger.name, "key": self.logger.key(self.tracker)}
        write_atomic(self.state_file, json.dumps({**run, "epochs": self.epochs, "step": self.step}))

    @contextmanager
    def _errors_as_warnings(self) -> Iterator[None]:
        """Suppress the tracker's errors and log the first as a warning. After it, nothing is sent to the tracker."""
        try:
            yield
        except Exception as error:
            if not self.failed:
                log.warning(
                    "logger=%s failed, so nothing more is sent to it: %s", self.logger.name, describe_error(error)
                )
            self.failed = True


def sent_before(state_file: Path, logger: str) -> dict[str, Any]:
    """Return what was sent to this logger before an interruption; nothing if the file is missing or damaged."""
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        fits = state["logger"] == logger and isinstance(state["key"], str)
        return {**state, "epochs": int(state["epochs"]), "step": int(state["step"])} if fits else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def flatten(settings: Mapping[str, Any]) -> Settings:
    """Flatten nested settings to dotted keys. Lists become JSON text."""
    flat: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in flatten(value).items()}
        else:
            flat[key] = value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def epoch_metrics(epoch: Mapping[str, Any], scored_on: str) -> Metrics:
    """Return the metrics to send for one epoch of a record. Those that are not finite numbers are left out."""
    scores = {f"{scored_on}/{name}": score for name, score in epoch["scores"].items()}
    return _finite({"train/loss": epoch["train_loss"], **scores, "time_s": epoch["time_s"]})


def final_metrics(scores: Mapping[str, Any], time_s: Mapping[str, float], memory_bytes: Mapping[str, int]) -> Metrics:
    """Return the metrics to send when a run ends, completed or not: selected and last scores, time and memory."""
    chosen = {which: scores.get(which) or {} for which in ("selected", "last")}
    metrics = {f"{which}/{name}": score for which, group in chosen.items() for name, score in group.items()}
    costs = {"total_time_s": time_s["total"], "peak_memory_bytes": max(memory_bytes.values(), default=0)}
    return _finite({**metrics, **costs})


def _finite(metrics: Mapping[str, float | None]) -> Metrics:
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}


def describe_error(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('. ')}"
