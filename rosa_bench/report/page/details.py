"""The details of one run: its curves, settings and provenance."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from rosa_bench.config.looks import look_of
from rosa_bench.records.mappings import Result
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.changes import changes_of
from rosa_bench.report.cells.settings import frozen, words
from rosa_bench.report.cells.shown import reported_rows, selection_rows
from rosa_bench.report.page.plot import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Plot, plot
from rosa_bench.report.writers.html import fill
from rosa_bench.report.writers.text import MIB, UNDEFINED, times

if TYPE_CHECKING:
    from markupsafe import Markup

DATA = (
    "source",
    "rows",
    "official_rows",
    "official",
    "subset",
    "synthetic",
    "fingerprint",
)  # the other fields are for figures


def details_html(run: RunRecord) -> "Markup":
    """Render a run's curves, its settings with deviations marked, and its provenance."""
    return fill(
        "run.html",
        run=run,
        plots=plots(run),
        size=(WIDTH, HEIGHT),
        axes=(LEFT, RIGHT, BOTTOM),
        colour=look_of(run.settings.method.name).colour,
        facts={name: dict(flat(values)) for name, values in _outcome(run).items() if values},
        settings={name: dict(flat(values)) for name, values in _settings(run).items()},
        expected={key: words(frozen(value)) for key, (_, value) in changes_of(run).items()},
    )


def plots(run: RunRecord) -> list[Plot]:
    """Plot training loss, and the loss and score on the selection rows, against epochs. Unknown curves are left out."""
    epochs, by, rows = run.scores.epochs, run.scores.selected_by, selection_rows(run)
    curves = {
        "training loss": [epoch.train_loss for epoch in epochs],
        f"loss on {rows}": [epoch.scores["loss"] for epoch in epochs if "loss" in epoch.scores],
        f"{by.name.replace('_', ' ')} on {rows}": [
            times(1 if by.lower_is_better else 100, epoch.scores.get(by.name)) for epoch in epochs
        ],
    }
    placed = (plot(title, values, selected=run.selected.epoch) for title, values in curves.items())
    return [one for one in placed if one]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value as text, with its dotted key."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", words(frozen(value))


def _outcome(run: RunRecord) -> dict[str, Mapping[str, Any]]:
    """Return scores, costs and provenance, grouped under headings."""
    scores, data = to_builtins(run.scores), to_builtins(run.data)
    chosen = {key: scores[key] for key in ("selected_on", "selection_score", "signature") if scores.get(key, "") != ""}
    reported = reported_rows(run)
    return {
        f"Scores on {reported}, selected epoch": _defined(run.selected),
        f"Scores on {reported}, last epoch": _defined(run.last),
        "Stopped": to_builtins(run.stopped) if run.stopped else {},
        "Selection": chosen,
        "Data": {key: data[key] for key in DATA if key in data},
        "Weights": run.model,
        "Parameters": to_builtins(run.parameters),
        "Device": to_builtins(run.device),
        "Time, s": run.time_s,
        "Peak memory, MiB": {phase: f"{count / MIB:,.0f}" for phase, count in run.memory_bytes.items()},
        "Code": to_builtins(run.git),
        "Versions": run.versions,
    }


def _defined(scores: Result) -> dict[str, float | str]:
    return {name: UNDEFINED if score is None else score for name, score in scores.items()}


def _settings(run: RunRecord) -> dict[str, Mapping[str, Any]]:
    """Return the configuration: top-level settings first, then each group."""
    groups = {key: {key: value} for key, value in run.config.items() if isinstance(value, dict)}
    return {"run": {key: value for key, value in run.config.items() if key not in groups}, **groups}
