"""What a model wrote, kept beside its record so that it can be read, and scored again without the model.

JSON lines, in UTF-8, one object an input: ``{"prompt": ..., "output": ..., "references": [..., ...]}``.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rosa_bench.records.store import free_name, runs_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One input: what the model was given, what it wrote (perhaps nothing), and what people wrote instead.

    Raises `ValueError` unless there are references and none of them is blank.
    """

    prompt: str
    output: str
    references: tuple[str, ...]

    def __post_init__(self):
        if not self.references:
            raise ValueError("there are no references")
        if not all(reference.strip() for reference in self.references):
            raise ValueError("a reference is blank")


def path(results_dir: Path, run_id: str) -> Path:
    """Where a run's generations lie: beside its record."""
    return runs_folder(results_dir) / f"{run_id}.generations.jsonl"


def to_lines(rows: Iterable[Generation]) -> str:
    """The text of a file that `read` takes."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def save(rows: Iterable[Generation], results_dir: Path, run_id: str) -> Path:
    """Write a run's generations beside its record; earlier ones of the same run are put aside, never lost."""
    place = path(results_dir, run_id)
    if place.exists():
        aside = free_name(runs_folder(results_dir) / "superseded", run_id, ".generations.jsonl")
        write_atomic(aside, place.read_bytes())
    write_atomic(place, to_lines(rows))
    return place


def read(path: Path) -> list[Generation]:
    """The generations of a file, in its order; keys besides the three are passed over.

    Raises `UserError`, which names the file and the line, for one that is not as it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text in UTF-8, so it holds no generations") from error
    # Not splitlines: what a model writes may hold U+2028 and its like, which JSON need not escape as it does "\n".
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise UserError(f"{path} is empty; a file of generations has one JSON object a line")
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse(line: str, where: str) -> Generation:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: this is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: this is no JSON object with prompt, output and references")
    references = _value(values, "references", list, where)
    if not all(isinstance(reference, str) for reference in references):
        raise UserError(f"{where}: references are not all strings")
    prompt, output = (_value(values, key, str, where) for key in ("prompt", "output"))
    try:
        return Generation(prompt=prompt, output=output, references=tuple(references))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _value(values: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in values:
        raise UserError(f"{where}: there is no {key}")
    if not isinstance(values[key], kind):
        raise UserError(f"{where}: {key} is not a {'list' if kind is list else 'string'}")
    return values[key]
