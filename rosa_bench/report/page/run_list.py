"""The list of all runs: its columns, and how each shows a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.costs import own_peak_bytes
from rosa_bench.report.cells.settings import setting_of, variant_of, words
from rosa_bench.report.cells.words.shown import metric, scale
from rosa_bench.report.writers.text import MIB, MISSING, parameters, thousands


def _words(_run: RunRecord, value: Any) -> str:
    return words(value)


@dataclass(frozen=True)
class Field:
    """A column of the list.

    kind   how it is filtered: ``choice`` by ticking values, ``number`` and ``text`` by typing
    value  returns a run's value, or None
    text   formats a run's value
    """

    title: str
    kind: Literal["choice", "number", "text"]
    value: Callable[[RunRecord], Any]
    text: Callable[[RunRecord, Any], str] = _words

    def shown(self, run: RunRecord) -> str:
        """Return the text of a run's cell."""
        value = self.value(run)
        return MISSING if value is None or value == "" else self.text(run, value)

    def number(self, run: RunRecord) -> str:
        """Return the number that a cell is sorted by, without a unit and with 8 digits; empty if unknown."""
        value = self.value(run)
        return "" if value is None else str(value) if isinstance(value, int) else f"{value:.8g}"


def score(run: RunRecord, result: Result) -> float | None:
    """Return a score times 100, or an error as it is; None if it is undefined or the run has none."""
    return scale(run).scaled(result.get(run.scores.reported))


def _score_text(run: RunRecord, shown: float) -> str:
    """Format what `score` returns: a score as in the tables, an error with four digits."""
    return f"{shown:{scale(run).digits}}"


def memory_mib(run: RunRecord) -> float | None:
    """Return the peak memory in training; None if it was not measured, or is that of several runs in one pass."""
    peak = own_peak_bytes(run)
    return None if peak is None else peak / MIB


def label_of(run: RunRecord) -> tuple[str, str]:
    """Name a run: ``ROSA r=8``, and all else that sets it apart, ``lr=0.002, seed=1, resample_every=0, epochs=3``."""
    variant = variant_of(run)
    rank = "" if variant.rank is None else f" r={variant.rank}"
    said = [change.short for change in (*variant.changes, *setting_of(run).deviations)]
    return f"{variant.title}{rank}", ", ".join([f"lr={words(run.settings.lr)}", f"seed={run.settings.seed}", *said])


def _label(run: RunRecord) -> str:
    return ", ".join(label_of(run))


FIELDS = (
    Field("Variant", "text", _label),
    Field("Score", "number", lambda run: score(run, run.selected), _score_text),
    Field("Task", "choice", lambda run: run.settings.task.title),
    Field("Model", "choice", lambda run: run.settings.model.title),
    Field("Method", "choice", lambda run: run.settings.method.title),
    Field("Rank", "number", lambda run: run.settings.method.rank),
    Field("lr", "number", lambda run: run.settings.lr),
    Field("Seed", "number", lambda run: run.settings.seed),
    Field("Protocol", "choice", lambda run: run.settings.protocol.name),
    Field("Status", "choice", lambda run: run.status),
    Field("Metric", "choice", metric),
    Field("Epoch", "number", lambda run: run.selected.epoch),
    Field("Last", "number", lambda run: score(run, run.last), _score_text),
    Field("Trainable", "number", lambda run: run.parameters.trainable, lambda _, count: parameters(count)),
    Field(
        "Time (s)",
        "number",
        lambda run: None if run.packed else run.time_s.total,
        lambda _, time_s: f"{time_s:.1f}",
    ),
    Field("Memory (MiB)", "number", memory_mib, lambda _, mib: thousands(round(mib))),
    Field("Device", "choice", lambda run: run.device.name),
    Field("Precision", "choice", lambda run: run.device.precision),
    Field("Started", "text", lambda run: run.started_at[:16].replace("T", " ")),
    Field("Run", "text", lambda run: run.id),
)
