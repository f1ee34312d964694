"""The list of all runs: its columns, and what each shows of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import lower_is_better
from rosa_bench.report.cells.settings import frozen, words
from rosa_bench.report.figures.figure3 import MIB, peak_bytes
from rosa_bench.report.writers.text import MISSING, parameters, rows


def _words(_run: RunRecord, value: Any) -> str:
    return words(value)


@dataclass(frozen=True)
class Field:
    """A column of the list.

    kind   how it is filtered: ``choice`` by ticking some of its few values, ``number`` and ``text`` by typing
    value  of a run; None where it has none
    text   how a run's value is shown
    """

    title: str
    kind: Literal["choice", "number", "text"]
    value: Callable[[RunRecord], Any]
    text: Callable[[RunRecord, Any], str] = _words

    def shown(self, run: RunRecord) -> str:
        """What stands in the cell."""
        value = self.value(run)
        return MISSING if value is None or value == "" else self.text(run, value)

    def number(self, run: RunRecord) -> str:
        """What a cell with a number is sorted and filtered by: all digits that count, no unit; empty without one."""
        value = self.value(run)
        return "" if value is None else f"{value:.8g}"


def scale(run: RunRecord) -> int:
    """What a run's reported figure is multiplied by to be shown: 100 for a score, 1 for an error."""
    return 1 if lower_is_better(run) else 100


def score_text(run: RunRecord, score: float) -> str:
    """A reported figure, scaled already: a score as in the tables, an error with four digits."""
    return f"{score:.4g}" if lower_is_better(run) else f"{score:z.1f}"


def metric(run: RunRecord) -> str:
    """The reported figure's name."""
    return run.scores.get("reported", run.config["task"]["score"]).replace("_", " ")


def _title(group: str) -> Callable[[RunRecord], str]:
    return lambda run: run.config[group]["title"]


def _score(which: str) -> Callable[[RunRecord], float | None]:
    def score(run: RunRecord) -> float | None:
        scores = run.scores.get(which)  # of a run that broke off there are none
        return scores[run.scores["reported"]] * scale(run) if scores else None

    return score


def _changes(run: RunRecord) -> str:
    return ", ".join(f"{key}={words(frozen(value))}" for key, (value, _) in sorted(run.deviations.items()))


FIELDS = (
    Field("Task", "choice", _title("task")),
    Field("Model", "choice", _title("model")),
    Field("Method", "choice", _title("method")),
    Field("Rank", "number", lambda run: run.config["method"].get("rank")),
    Field("lr", "number", lambda run: run.config["lr"]),
    Field("Seed", "number", lambda run: run.config["seed"]),
    Field("Protocol", "choice", lambda run: run.config["protocol"]["name"]),
    Field("Status", "choice", lambda run: run.status),
    Field("Metric", "choice", metric),
    Field("Score", "number", _score("selected"), score_text),
    Field("Epoch", "number", lambda run: (run.scores.get("selected") or {}).get("epoch")),
    Field("Last", "number", _score("last"), score_text),
    Field("Trainable", "number", lambda run: run.parameters.get("trainable"), lambda _, count: parameters(count)),
    Field("Time (s)", "number", lambda run: run.time_s.get("total"), lambda _, time_s: f"{time_s:.1f}"),
    Field("Memory (MiB)", "number", lambda run: peak_bytes(run) / MIB or None, lambda _, mib: rows(round(mib))),
    Field("Device", "choice", lambda run: run.device["name"]),
    Field("Precision", "choice", lambda run: run.device["precision"]),
    Field("Deviations", "text", _changes),
    Field("Started", "text", lambda run: run.started_at[:16].replace("T", " ")),
    Field("Run", "text", lambda run: run.id),
)
