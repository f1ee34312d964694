"""The record of one run: everything a reader needs to believe a figure, as one JSON file."""

import hashlib
import itertools
import json
import logging
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from rosa_bench.config import RunConfig
from rosa_bench.errors import UserError
from rosa_bench.files import write_atomic
from rosa_bench.shape import MAYBE_TEXT, NUMBER, misfit

log = logging.getLogger(__name__)

SCHEMA = 1
# Of the labels' standard deviation. A classifier of a thousand rows is below it if all get one class, and else above.
LEAST_SPREAD = 0.05
# Settings that cannot change a figure. `rank` counts through the method, where that has one.
NOT_IDENTITY = (
    "rank",
    "data_dir",
    "device",
    "precision",
    "output_dir",
    "results_dir",
    "resume",
    "retry_failed",
    "checkpoint_s",
    "save_model",
    "logger",
    "record_spectrum",
    "cuda_graphs",
)
NOT_IDENTITY_OF = {
    "task": ("title", "rows", "hub", "folder"),
    "model": ("title", "parameters", "licence", "hub", "revision", "wheel", "path", "random", "note"),
    "method": ("title", "default_lr"),
    "protocol": ("title", "lm_head", "loss_on_prompt"),  # these count through the method, and the task
}
# Settings that some records are older than, each with what was done before it could be set. An identity leaves them out
# where they say just that, so that those runs keep their names.
ADDED_SINCE: dict[str, Any] = {
    "pad_to_max": False,
    "group_by_length": False,
    "compile": "none",
    "method.lm_head": None,
    "method.fused": None,
    "method.split_qkv": False,
    "optimizer.schedule": "linear",
}


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
# What tables and figures count on in every record, and in one of a completed run (`rosa_bench.shape`).
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
    spectrum    of the updates of adapted weights, where it was asked for (`rosa_bench.spectrum`)
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


def identity(config: RunConfig, *, data: str, model: dict[str, Any], device: str, precision: str) -> dict[str, Any]:
    """Everything that can change the figures of a run, and nothing else.

    ``data`` and ``model`` fix the rows and the weights by what they are, not by where they lie.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_IDENTITY}
    for group, unimportant in NOT_IDENTITY_OF.items():
        settings[group] = {key: value for key, value in settings[group].items() if key not in unimportant}
    for key, before in ADDED_SINCE.items():
        *group, name = key.split(".")
        place = settings[group[0]] if group else settings
        if name in place and place[name] == before:
            del place[name]
    return {**settings, "data": data, "weights": model, "device": device, "precision": precision}


def is_identity(key: str) -> bool:
    """Whether a setting, by its dotted key, can change a figure; of ``rank`` its method's says so."""
    group, *rest = key.split(".")
    return group not in NOT_IDENTITY and (not rest or rest[0] not in NOT_IDENTITY_OF.get(group, ()))


def run_id(config: RunConfig, identity: dict[str, Any]) -> str:
    """``<task>-<model>-<method>-r<rank>-lr<lr>-s<seed>-<hash>``; a method without a rank has no such part."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    rank = [f"r{config.method.rank}"] if hasattr(config.method, "rank") else []  # pyright: ignore[reportAttributeAccessIssue]
    names = [config.task.name, config.model.name, config.method.name, *rank]
    return "-".join([*names, f"lr{config.lr:g}", f"s{config.seed}", digest])


def public_config(config: RunConfig) -> dict[str, Any]:
    """The configuration for a record: without folders and tools of the machine that it was made on."""
    settings = asdict(config)
    for key in ("data_dir", "output_dir", "results_dir", "resume", "retry_failed", "checkpoint_s", "logger"):
        del settings[key]
    settings["model"]["path"] = None
    return settings


def runs_folder(results_dir: Path) -> Path:
    """Where records are kept under a results folder."""
    return results_dir / "runs"


def save_record(record: RunRecord, results_dir: Path) -> Path:
    """Write a record; an earlier one of the same run, or a damaged file in its place, is put aside, never lost.

    What is not completed does not take the place of what is: it is then itself put aside.
    """
    folder = runs_folder(results_dir)
    path = folder / record.path_name
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
    if path.exists():
        aside = free_name(folder / "superseded", record.id)
        if record.status != "completed" and _is_completed(path):
            path = aside
        else:
            write_atomic(aside, path.read_bytes())  # a copy: until the new one is written, the old one stays
    write_atomic(path, text)
    return path


def free_name(folder: Path, stem: str, ending: str = ".json") -> Path:
    """The first of ``<stem>-1<ending>``, ``<stem>-2<ending>``, ... that is not taken."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{stem}-{number}{ending}").exists())


def load_record(path: Path) -> RunRecord:
    """Read a record. Raises `UserError` for a file that is none, or that a later version wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; move it away") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a run's record: {error}; mend it or move it away") from error
    schema = values.get("schema", SCHEMA) if isinstance(values, dict) else SCHEMA
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}, and this version reads {SCHEMA}; update rosa-bench to read it")
    if reason := _misfit(values):
        raise UserError(f"{path} is not a run's record: {reason}; mend it or move it away")
    return RunRecord(**{field.name: values[field.name] for field in fields(RunRecord) if field.name in values})


def _misfit(values: Any) -> str | None:
    """Where these values out of JSON are no record, in words; none where they are one."""
    found = misfit(values, SHAPE)
    if found or values["status"] != "completed":
        return found
    scores = values.get("scores", {})
    reported, selected_by = str(scores.get("reported")), scores.get("selected_by")
    selects = selected_by.get("name") if isinstance(selected_by, dict) else reported
    return misfit(values, completed_shape(reported, str(selects)))


class Records(list[RunRecord]):
    """The records of a folder in the order of their files' names.

    unread  ``2 of 139 files in results/runs could not be read; see above``; empty where all could
    """

    unread: str = ""

    def remind(self) -> None:
        """Say again, at a command's end, how many files could not be read."""
        if self.unread:
            log.warning("%s", self.unread)


def load_records(results_dir: Path) -> Records:
    """All records under a results folder. A file that is none is named in the log, with the reason, and passed over."""
    folder, records = runs_folder(results_dir), Records()
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        try:
            records.append(load_record(path))
        except UserError as error:
            log.warning("%s", error)
    if missing := len(paths) - len(records):
        records.unread = f"{missing} of {len(paths)} files in {folder} could not be read; see above"
    return records


def _is_completed(path: Path) -> bool:
    """Whether a file is the record of a completed run; a damaged one is not."""
    try:
        return load_record(path).status == "completed"
    except UserError:
        return False
