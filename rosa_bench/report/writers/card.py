"""The model card of an exported run, from its record: how it was trained, its scores, and the hub's metadata of them.

The metadata are a ``model-index`` in the card's head, as huggingface_hub writes it, and files in ``.eval_results`` for
scores on published rows of a data set on the hub. Every text of a record is escaped, because anyone may have written
it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.same_data import split_by_data
from rosa_bench.report.cells.settings import Setting, Variant, setting_of, variant_of
from rosa_bench.report.cells.statistics import shown_interval_of
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.report.writers.markdown import escape
from rosa_bench.system.text.printable import printable
from rosa_bench.system.version import __version__

SIGN = "exported by rosa_bench"  # in every card
LINK = "https://arxiv.org/abs/2407.07802"
# Transformers' pipelines by the kind of exported model.
PIPELINES = {"SEQ_CLS": "text-classification", "CAUSAL_LM": "text-generation"}


class Export(NamedTuple):
    """What is exported: the kind of folder, PEFT's name of the task, and lines about rank, errors and use."""

    kind: str
    task_type: str
    base: str | None
    notes: tuple[str, ...]


def model_card(record: RunRecord, seeds: Iterable[RunRecord], export: Export) -> str:
    """Return the text of ``README.md``. ``seeds`` are the runs that differ from ``record`` only in the seed."""
    settings, runs = record.settings, list(seeds)
    title = printable(f"{settings.method.title} on {settings.task.title} ({settings.model.title})")
    merged = export.kind == "merged"
    data = ModelCardData(
        base_model=None if export.base is None else printable(export.base),
        datasets=_hub(record).get("path"),
        eval_results=[_eval_result(record)] if math.isfinite(record.score) else None,
        library_name="transformers" if merged else "peft",
        license=_license(record),
        metrics=[printable(record.scores.reported)],
        model_name=title,
        pipeline_tag=PIPELINES[export.task_type],
        tags=["rosa_bench", settings.method.name, *([] if merged else ["lora"])],
    )
    lines = [
        "---", data.to_yaml(), "---", "", f"# {escape(title)}", "",
        f"Trained and {SIGN} {__version__} ([ROSA]({LINK})). Run `{record.id}`.", "",
        *(f"- {escape(note)}" for note in export.notes), "", "## Scores", "", *_scores(record, runs), "",
        "## Training", "", *_training(record), "", "## Deviations from the protocol", "", *_deviations(record), "",
    ]  # fmt: skip
    return "\n".join(lines)


def eval_entries(record: RunRecord) -> list[dict[str, Any]]:
    """Return the entries of a file in ``.eval_results``: a score on all published rows of a set on the hub, if any."""
    hub, data = _hub(record), record.data
    if not hub.get("path") or data.official is not True or data.subset or not math.isfinite(record.score):
        return []
    entry: dict[str, Any] = {
        "dataset": {"id": hub["path"], "task_id": hub.get("name") or "default"}
        | ({"revision": data.commit} if data.commit else {}),
        "value": record.score,
        "date": record.started.date().isoformat(),
        "notes": f"{record.scores.reported}, protocol {record.settings.protocol.name}, seed {record.settings.seed}",
    }
    return [entry]


def same_but_seed(record: RunRecord, records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return ``record`` and the completed runs that differ from it only in the seed: those of one cell of a table.

    Two runs of one seed, made in different ways that do not change scores, count once.
    """
    wanted = _without_seed(record)
    others = (run for run in records if run.id != record.id and run.status == "completed")
    alike = [record, *(run for run in others if _without_seed(run) == wanted)]
    [same_data] = [part for part in split_by_data(alike) if any(run is record for run in part)]
    by_seed = {run.settings.seed: run for run in reversed(same_data)}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _without_seed(record: RunRecord) -> tuple[str, float, Setting, Variant]:
    settings = record.settings
    return settings.task.name, settings.lr, setting_of(record), variant_of(record)


def _eval_result(record: RunRecord) -> EvalResult:
    """Return the reported score in the form of huggingface_hub."""
    hub, settings = _hub(record), record.settings
    return EvalResult(
        task_type="text-classification" if "labels" in record.config["task"] else "text-generation",
        dataset_type=hub.get("path") or f"rosa_bench/{settings.task.name}",
        dataset_name=printable(settings.task.title),
        dataset_config=hub.get("name"),
        dataset_split=printable(settings.task.test or settings.task.validation),
        dataset_revision=None if record.data.commit is None else printable(record.data.commit),
        metric_type=printable(record.scores.reported),
        metric_name=printable(record.scores.reported),
        metric_value=round(record.score, 6),
    )


def _scores(record: RunRecord, runs: Sequence[RunRecord]) -> list[str]:
    """Return a table of the selected and the last epoch's scores, and a line about the interval over ``runs``."""
    scores, whole = [run.score for run in runs], shown_interval_of(runs)
    names = [name for name in record.selected if name not in ("epoch", "spread")]
    reported = escape(record.scores.reported)
    rows = [
        f"| {escape(name)} | {_number(record.selected.get(name))} | {_number(record.last.get(name))} |"
        for name in names
    ]
    header = ["| metric | selected epoch | last epoch |", "| --- | --- | --- |"]
    if not all(map(math.isfinite, scores)):
        said = "No interval: a score is undefined."
    elif whole is None:
        said = "No interval: one seed, and a metric without an interval over rows."
    elif whole.of == "seeds":
        said = (
            f"{reported} over {len(scores)} seeds: mean {_number(fmean(scores))}, 95 % interval "
            f"[{_number(whole.low)}, {_number(whole.high)}] ({whole.method})."
        )
    else:
        said = (
            f"{reported} of this model: 95 % interval over rows [{_number(whole.low)}, "
            f"{_number(whole.high)}] ({whole.method}); one seed, so it says nothing about other seeds."
        )
    selected_on = record.scores.selected_on.replace("_", " ")
    return [*header, *rows, "", said, "", f"The epoch was selected on: {selected_on}."]


def _training(record: RunRecord) -> list[str]:
    """Return lines about the method, the protocol and the data."""
    settings, data = record.settings, record.data
    facts = {
        "method": f"{settings.method.title}" + (f", rank {settings.method.rank}" if settings.method.rank else ""),
        "protocol": f"{settings.protocol.name}: {settings.protocol.title}",
        "data": f"{data.source}, {data.rows.train} train rows" + (" (a subset)" if data.subset else ""),
        "learning rate": f"{settings.lr:g}",
        "epochs": f"{settings.epochs}, selected: {record.selected.epoch}",
        "batch size": str(settings.batch_size),
        "seed": str(settings.seed),
        "trained parameters": f"{record.parameters.trainable:,} of {record.parameters.total:,}",
        "draws after the first": str(record.resamples or 0),
        "weights": f"{settings.model.title}" + (f": {settings.model.note}" if settings.model.note else ""),
        "device": f"{record.device.name}, {record.device.precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items())),
    }
    return [f"- {name}: {escape(value)}" for name, value in facts.items()]


def _deviations(record: RunRecord) -> list[str]:
    """Return the changes that tables name the run by: an older record may lack some among its own ``deviations``."""
    changes = changes_of(record)
    if not changes:
        return ["None."]
    rows = [
        f"| {escape(key)} | {escape(str(value))} | {escape(str(expected))} |"
        for key, (value, expected) in changes.items()
    ]
    return ["| setting | here | protocol |", "| --- | --- | --- |", *rows]


def _hub(record: RunRecord) -> dict[str, str]:
    """Return the data set on the hub that the task declares, or nothing."""
    declared = record.setting("task.hub")
    if not isinstance(declared, dict):
        return {}
    return {key: printable(value) for key, value in declared.items() if isinstance(value, str)}


def _license(record: RunRecord) -> str | None:
    """Return the licence of the weights in the hub's spelling, if it is an identifier."""
    licence = str(record.setting("model.licence", "")).lower()
    return licence if re.fullmatch(r"[\w.+-]+", licence) else None


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
