"""The record of one run: everything a reader needs to believe a figure, as one JSON file."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rosa_bench.records.shape import MAYBE_TEXT, NUMBER, misfit

SCHEMA = 1
# Of the labels' standard deviation. A classifier of a thousand rows is below it if all get one class, and else above.
LEAST_SPREAD = 0.05


def is_moment(value: Any) -> bool:
    """Whether a value is a date and time with its zone, so that any two can be put in order."""
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


SPECTRUM: dict[Any, Any] = {
    "ranks": [int],
    "weights": {...: {"rank": int, "norm": NUMBER, "norm_before": NUMBER, "sum": NUMBER, "sums": [NUMBER]}},
}
# What tables and figures count on in every record, and in one of a completed run (`rosa_bench.records.shape`).
SHAPE: dict[Any, Any] = {
    "id": str,
    "status": str,
    "config": {
        "lr": lambda lr: isinstance(lr, NUMBER) and lr > 0,
        "seed": int,
        "epochs": int,
        "batch_size": int,
        "max_length": (int, type(None)),
        "limit_train": (int, type(None)),
        "task": {"name": str, "title": str, "train": str, "validation": str},
        "model": {"name": str, "title": str, "note?": MAYBE_TEXT},
        "method": {"name": str, "title": str, "rank?": int, "resample_every?": NUMBER, "resample_unit?": str},
        "protocol": {"name": str, "title": str},
    },
    "deviations": {...: lambda pair: isinstance(pair, list) and len(pair) == 2},
    "data": {
        "source": str,
        "fingerprint": str,
        "synthetic": bool,
        "subset": bool,
        "rows": {"train": int, "held_out": int, "validation": int},
        "official_rows": {...: int},
    },
    "model": {"source": str, "requirements?": [str], "id?": MAYBE_TEXT, "revision?": str, "commit?": MAYBE_TEXT},
    "device": {"type": str, "name": str, "precision": str},
    "versions": dict,
    "git": dict,
    "started_at": is_moment,
    "parameters?": {...: int},
    "scores?": dict,
    "time_s?": {...: NUMBER},
    "memory_bytes?": {...: NUMBER},
    "spectrum?": lambda spectrum: spectrum == {} or not misfit(spectrum, SPECTRUM),
    "error?": MAYBE_TEXT,
    "schema?": {SCHEMA},
}


def completed_shape(reported: str, selects: str) -> dict[str, Any]:
    """As `SHAPE`, of what only a completed run has: its ``reported`` figure, and each epoch's that ``selects``."""
    figure = {reported: NUMBER}
    return {
        "parameters": {"trainable": int},
        "scores": {
            "reported": str,
            "lower_is_better?": bool,
            "epochs": [{"train_loss": NUMBER, "scores": {...: NUMBER, selects: NUMBER}}],
            "selected_by?": {"name": str, "lower_is_better": bool},
            "selected_on": {"held_out", "validation", "validation_split"},
            "selection_score": NUMBER,
            "selected": figure,
            "last": figure,
        },
    }


@dataclass(kw_only=True)
class RunRecord:
    """One run. Scores are fractions, times seconds, memory bytes.

    status      ``completed``, ``failed`` or ``interrupted``; ``error`` says why
    deviations  settings that differ from the protocol's: key -> [value, the protocol's value]
    scores      ``reported`` names the figure, ``epochs`` has all of every epoch, ``selected`` and ``last`` those on dev
    resamples   how often the method changed the model before a step; None in records older than the count
    spectrum    of the updates of adapted weights, where it was asked for (`rosa_bench.training.spectrum`)
    """

    id: str
    status: str
    config: dict[str, Any]
    deviations: dict[str, list[Any]]
    data: dict[str, Any]
    model: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    git: dict[str, Any]
    started_at: str
    parameters: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    time_s: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    spectrum: dict[str, Any] = field(default_factory=dict)
    resamples: int | None = None
    error: str | None = None
    schema: int = SCHEMA

    @property
    def path_name(self) -> str:
        """The file's name in ``results/runs``."""
        return f"{self.id}.json"

    @property
    def has_collapsed(self) -> bool | None:
        """Whether the last epoch's model gives all rows (nearly) the same; none where the run does not tell."""
        spread = self.scores.get("last", {}).get("spread")
        return None if spread is None else not spread >= LEAST_SPREAD  # no number: nothing was told apart
