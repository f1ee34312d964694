"""Generated texts, stored next to the run's record, to be read or scored again without the model.

JSON lines in UTF-8, one object per input: ``{"prompt": ..., "output": ..., "references": [..., ...]}``.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rosa_bench.records import strict_json
from rosa_bench.records.store import save_beside
from rosa_bench.system.errors import UserError

ENDING = ".generations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One input: the prompt, the model's output (may be empty), and the references that people wrote.

    Raises `ValueError` if there are no references, or a blank one.
    """

    prompt: str
    output: str
    references: tuple[str, ...]

    def __post_init__(self):
        if not self.references:
            raise ValueError("there are no references")
        if not all(reference.strip() for reference in self.references):
            raise ValueError("a reference is blank")


def path(record: Path) -> Path:
    """Return the path of a run's generations, next to its record."""
    return record.with_name(f"{record.stem}{ENDING}")


def to_lines(rows: Iterable[Generation]) -> str:
    """Return generations as the text of a file for `read`."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def save(rows: Iterable[Generation], record: Path, results_dir: Path) -> Path:
    """Write a run's generations next to its ``record``. Earlier ones are kept as superseded."""
    return save_beside(to_lines(rows), record, results_dir, ending=ENDING)


def read(path: Path) -> list[Generation]:
    """Return the generations in a file, in order. Unknown keys are ignored.

    Raises `UserError`, with the file and the line, if a line is not a generation.
    """
    try:
        text = strict_json.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text, so it cannot be a file of generations") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    # Not splitlines: an output may contain U+2028 and the like, which JSON does not have to escape.
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise UserError(f"{path} is empty; a file of generations has one JSON object per line")
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse(line: str, where: str) -> Generation:
    try:
        values = strict_json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: this is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: this is not a JSON object with prompt, output and references")
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
