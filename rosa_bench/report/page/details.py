"""The details of one run as text: scores, costs, provenance and settings, and its curves as numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import to_builtins

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import frozen, words
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.report.cells.words.shown import metric, reported_rows, selection_rows, selection_scale
from rosa_bench.report.writers.text import MIB, UNDEFINED

# What is shown of a record's data; the other fields are for figures.
DATA = ("source", "rows", "official_rows", "official", "subset", "synthetic", "fingerprint")
SETTINGS = "Settings"
POINTS = 150  # the most points of a curve: more than a small plot can show
DIGITS = 5  # of a value on a curve


class Fact(NamedTuple):
    """One line of a run's details. ``expected`` is the protocol's value of a setting that differs from it."""

    group: str
    key: str
    text: str
    expected: str | None = None


class Curve(NamedTuple):
    """The values at some epochs, counted from 1. A value that is not finite is None."""

    title: str
    epochs: list[int]
    values: list[float | None]


def facts_of(run: RunRecord) -> list[Fact]:
    """Return all that the record says, grouped under headings, with deviations from the protocol marked."""
    expected = {key: words(frozen(value)) for key, (_, value) in changes_of(run).items()}
    outcome = [Fact(group, key, text) for group, values in _outcome(run).items() for key, text in flat(values)]
    return [*outcome, *(Fact(SETTINGS, key, text, expected.get(key)) for key, text in flat(_settings(run)))]


def curves_of(run: RunRecord) -> list[Curve]:
    """Return training loss, and the loss and score on the selection rows. Unknown curves are left out."""
    epochs, by, rows = run.scores.epochs, run.scores.selected_by, selection_rows(run)
    curves = {
        "training loss": [epoch.train_loss for epoch in epochs],
        f"loss on {rows}": [epoch.scores.get("loss") for epoch in epochs],
        f"{by.name.replace('_', ' ')} on {rows}": [
            selection_scale(run).scaled(epoch.scores.get(by.name)) for epoch in epochs
        ],
    }
    made = (_curve(title, values, selected=run.selected.epoch) for title, values in curves.items())
    return [curve for curve in made if any(value is not None for value in curve.values)]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value as text, with its dotted key."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", words(frozen(value))


def _curve(title: str, values: Sequence[float | None], *, selected: int | None) -> Curve:
    """Thin a long curve. Its first, last and selected epoch stay."""
    count = len(values)
    every = max(1, math.ceil(count / POINTS))
    kept = [epoch for epoch in range(1, count + 1) if epoch in (1, count, selected) or epoch % every == 0]
    return Curve(title, kept, [_short(values[epoch - 1]) for epoch in kept])


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _outcome(run: RunRecord) -> dict[str, Mapping[str, Any]]:
    """Return scores, costs and provenance, grouped under headings."""
    scores, data = to_builtins(run.scores), to_builtins(run.data)
    chosen = {key: scores[key] for key in ("selected_on", "selection_score", "signature") if scores.get(key, "") != ""}
    return {
        "Run": {"id": run.id, "status": run.status, "started": run.started_at, **_course(run)},
        "Scores, selected epoch": _defined(run.selected),
        "Scores, last epoch": _defined(run.last),
        "Stopped": to_builtins(run.stopped) if run.stopped else {},
        "Forgetting": to_builtins(run.forgetting) if run.forgetting else {},
        "Selection": {"metric": metric(run), "reported_on": reported_rows(run), **chosen},
        "Data": {key: data[key] for key in DATA if key in data},
        "Weights": to_builtins(run.model),
        "Parameters": to_builtins(run.parameters),
        "Device": to_builtins(run.device),
        "Time, s": to_builtins(run.time_s),
        "Peak memory, MiB": {phase: f"{count / MIB:,.0f}" for phase, count in run.memory_bytes.items()},
        "Code": to_builtins(run.git),
        "Versions": run.versions,
    }


def _course(run: RunRecord) -> dict[str, Any]:
    """Return what only some methods and launchers leave in a record."""
    values = {
        "resamples": run.resamples,
        "basis_age": run.basis_age,
        "candidates": run.candidates,
        "chosen": run.selected_candidate,
        "packed": f"{run.packed} runs in one pass; time and memory are of all of them" if run.packed else None,
    }
    return {key: value for key, value in values.items() if value}


def _defined(scores: Result) -> dict[str, float | str]:
    return {name: UNDEFINED if score is None else score for name, score in scores.items()}


def _settings(run: RunRecord) -> dict[str, Any]:
    """Return the configuration: top-level settings first, then each group."""
    groups = {key: value for key, value in run.config.items() if isinstance(value, dict)}
    return {**{key: value for key, value in run.config.items() if key not in groups}, **groups}
