"""The commands that may come next after a run."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.folder import own_folder
from rosa_bench.config.groups import kinds, names_in
from rosa_bench.config.overrides.grammar import written
from rosa_bench.config.overrides.mistakes import composition_errors
from rosa_bench.config.schema import Plain
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.report.next import repeated
from rosa_bench.report.show.files import ADAPTER, CHECKPOINTS, kept_outputs
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import settings_of

WIDTH = 78  # of a command; its further lines are indented
UNPLACED = ("hub ", "embedded ")  # beginnings of the sources of rows that no folder holds
GIVEN = ("rank", "lr", "seed")  # settings that every command has


def following(
    run: RunRecord, path: Path, output_dir: Path, places: Sequence[str] = ()
) -> Iterator[tuple[str, str | None]]:
    """Yield what may be done next, each with its command, or with None if it is not known.

    ``places`` are the options that say where records and outputs are, such as ``results_dir=outputs/smoke``.
    """
    if run.status != "completed":
        yield from _again(run, output_dir, places)
        return
    results = [place for place in places if place.startswith("results_dir=")]
    if other := _other_method(run, path):
        methods = f"method={run.settings.method.name},{other}"
        alike = [f"task={run.settings.task.name}", f"model={run.settings.model.name}"]
        yield "compare with another method", _command("compare", methods, *alike, *results)
    if kept_outputs(run, ADAPTER, output_dir) is not None:
        yield "export it for PEFT, transformers and servers", _command("export", run.id, "to=peft", *places)
    elif run.model.source != "random" and all(kind.adapts_layers for kind in kinds("method", run.settings.method.name)):
        yield "to export it, run the same command with save_adapter=true", None


def command_of(run: RunRecord, more: Sequence[str] = ()) -> str:
    """Return the command that makes a run. Raises `UserError` if it cannot be known from the record."""
    name = run.settings.model.name
    if name not in names_in("model"):
        raise UserError(f"model={name} has no yaml here, so type the command as before")
    with composing() as composer:
        settings = repeated(run, composer, more)
        values = [f"lr={run.settings.lr!r}", f"seed={run.settings.seed}"]
        free = _free(run)
        overrides = [*settings, *values, *(f"{key}={written(value)}" for key, value in free.items())]
        with composition_errors():
            composed = parse(composer.compose(tuple(overrides)))
    for key, value in free.items():
        if (found := getattr(composed, key)) != value:
            raise UserError(f"{key}={value} in the record becomes {key}={found}")
    return _command(*overrides, *more)


def wrapped(command: str) -> list[str]:
    r"""Split a command into lines that a shell reads as one. A word is never split.

    >>> wrapped("rosa-bench compare " + "x" * 70)
    ['rosa-bench compare \\', '    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx']
    """
    lines, line = [], ""
    for word in map(shlex.quote, shlex.split(command)):
        if line.strip() and len(line) + 1 + len(word) > WIDTH - 2:
            lines.append(f"{line} \\")
            line = "   "
        line = f"{line} {word}" if line else word
    return [*lines, line]


def _again(run: RunRecord, output_dir: Path, places: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the command that makes an incomplete run again, and what it will do."""
    if run.status == "failed":
        what, more = "run it again", ["retry_failed=true"]
    elif kept_outputs(run, CHECKPOINTS, output_dir) is not None:
        what, more = "the same command goes on from its checkpoint", []
    else:
        what, more = "the same command starts it again", []
    absent = [] if run.data.source.startswith(UNPLACED) else ["data= or data_dir="]
    absent += ["model.path="] if run.model.source == "path" else []
    if absent:
        what += f"; add the {' and the '.join(absent)} that it had"
    try:
        yield what, command_of(run, [*more, *places])
    except UserError as error:
        yield f"{what}; {error}", None


def _free(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run that every protocol leaves to the experiment, if they differ from the defaults.

    They say how it computes, such as ``precision``, and what it saves. `repeated` returns the others.
    """
    free = [one for one, known in settings_of(Plain) if known.free and known.published and one.name not in GIVEN]
    values = {one.name: value for one in free if (value := run.setting(one.name, one.default)) != one.default}
    return values | ({"device": run.device.type} if "device" in values else {})


def _other_method(run: RunRecord, path: Path) -> str | None:
    """Return the other method with the most completed runs beside this one, of the same seed and protocol."""
    counts: Counter[str] = Counter()
    for file in sorted(path.parent.glob("*.json")):
        try:
            other = load_record(file)
        except UserError:
            continue  # every command that reads all records names it
        if other.status == "completed" and _alike(other, run):
            counts[other.settings.method.name] += 1
    return max(counts, key=lambda name: (counts[name], name), default=None)


def _alike(other: RunRecord, run: RunRecord) -> bool:
    ours, theirs = run.settings, other.settings
    return theirs.method.name != ours.method.name and all(
        getattr(theirs, key).name == getattr(ours, key).name for key in ("task", "model", "protocol")
    ) and theirs.seed == ours.seed  # fmt: skip


def _command(*words: str) -> str:
    own = own_folder()
    return shlex.join(["rosa-bench", *([] if own is None else ["--config-dir", str(own)]), *words])
