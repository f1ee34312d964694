"""One run for a reader: how it went, and everything that it was made of."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import selects_by, writes_texts
from rosa_bench.report.cells.settings import frozen, words
from rosa_bench.report.figures.drawing import COLOURS, OTHER_COLOUR
from rosa_bench.report.figures.figure3 import MIB
from rosa_bench.report.page.plot import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Plot, plot
from rosa_bench.report.page.run_list import metric
from rosa_bench.report.writers.html import fill

if TYPE_CHECKING:
    from markupsafe import Markup

DATA = ("source", "rows", "official_rows", "subset", "synthetic", "fingerprint")  # the rest is for the figures
SELECTED_ON = {"held_out": "rows held out of train", "validation": "dev"}


def details_html(run: RunRecord) -> "Markup":
    """Its curves, its settings with those that are not the protocol's, and its provenance."""
    return fill(
        "run.html",
        run=run,
        plots=plots(run),
        size=(WIDTH, HEIGHT),
        axes=(LEFT, RIGHT, BOTTOM),
        colour=COLOURS.get(run.config["method"]["name"], OTHER_COLOUR),
        facts={name: dict(flat(values)) for name, values in _facts(run).items() if values},
        settings={name: dict(flat(values)) for name, values in _settings(run).items()},
        expected={key: words(frozen(value)) for key, (_, value) in run.deviations.items()},
    )


def plots(run: RunRecord) -> list[Plot]:
    """Training loss, and loss and the figure that selects on the rows that do, against epochs; as far as known."""
    epochs = run.scores.get("epochs", [])
    rows = SELECTED_ON["held_out" if run.data["rows"]["held_out"] else "validation"]
    name, is_error = selects_by(run) if "reported" in run.scores else (metric(run), False)
    curves = {
        "training loss": [epoch["train_loss"] for epoch in epochs],
        f"loss on {rows}": [epoch["scores"]["loss"] for epoch in epochs if "loss" in epoch["scores"]],
        f"{name.replace('_', ' ')} on {rows}": [epoch["scores"][name] * (1 if is_error else 100) for epoch in epochs],
    }
    selected = (run.scores.get("selected") or {}).get("epoch")
    placed = (plot(title, values, selected=selected) for title, values in curves.items())
    return [one for one in placed if one]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value in words, by its dotted key."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", words(frozen(value))


def _facts(run: RunRecord) -> dict[str, Mapping[str, Any]]:
    """What it came to, and its provenance, under headings."""
    scores = run.scores
    chosen = {key: scores[key] for key in ("selected_on", "selection_score", "signature") if key in scores}
    reported = "test" if writes_texts(run) else "dev"
    return {
        f"Scores on {reported}, selected epoch": scores.get("selected") or {},
        f"Scores on {reported}, last epoch": scores.get("last") or {},
        "Selection": chosen,
        "Data": {key: run.data[key] for key in DATA if key in run.data},
        "Weights": run.model,
        "Parameters": run.parameters,
        "Device": run.device,
        "Time, s": run.time_s,
        "Peak memory, MiB": {phase: f"{count / MIB:,.0f}" for phase, count in run.memory_bytes.items()},
        "Code": run.git,
        "Versions": run.versions,
    }


def _settings(run: RunRecord) -> dict[str, Mapping[str, Any]]:
    """The configuration: what is set at the top, then group by group."""
    groups = {key: {key: value} for key, value in run.config.items() if isinstance(value, dict)}
    return {"run": {key: value for key, value in run.config.items() if key not in groups}, **groups}
