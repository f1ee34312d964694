"""Find what is wrong with a file that should be a record, and where."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rosa_bench.records.parts.measured import SELECTED_ON
from rosa_bench.records.record import SCHEMA, RunRecord, from_values

SHOWN = 40  # characters of a value shown in a message
# One form of ISO 8601, so that the day is always the first ten characters.
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,15}(Z|[+-][0-9]{2}:[0-9]{2})")
PLACE = re.compile(r" - at `\$([^`]*)`")
FORM = re.compile(r"str matching regex.*")
ANY_KEY = "[...]"  # msgspec's notation for any value of a mapping with open keys


def mistake_in(record: RunRecord) -> str | None:
    """Return the first problem of a well-typed record, such as ``scores.selected.f1 is missing``, or None."""
    return next(_mistakes(record), None)


def _mistakes(record: RunRecord) -> Iterator[str]:
    if record.schema != SCHEMA:
        yield f"schema is {record.schema}"
    if not _is_moment(record):
        yield f"started_at is {_shown(record.started_at)}, not a date and time with a time zone"
    if record.status == "completed":
        yield from _mistakes_of_completed(record)


def _is_moment(record: RunRecord) -> bool:
    """Whether the start is a date and time that exists, with a time zone."""
    if not MOMENT.fullmatch(record.started_at):
        return False
    try:
        return record.started.tzinfo is not None
    except ValueError:
        return False


def _mistakes_of_completed(record: RunRecord) -> Iterator[str]:
    scores = record.scores
    if not scores.reported:
        yield "scores.reported is missing"
    if scores.selected_on not in SELECTED_ON:
        yield f"scores.selected_on is {_shown(scores.selected_on)}, not one of {', '.join(SELECTED_ON)}"
    if scores.selection_score is UNSET:
        yield "scores.selection_score is missing"
    for number, epoch in enumerate(scores.epochs):
        if scores.selected_by.name not in epoch.scores:
            yield f"scores.epochs.{number}.scores.{scores.selected_by.name} is missing"
    for name, result in (("selected", scores.selected), ("last", scores.last)):
        if result is None or scores.reported not in result:
            yield f"scores.{name}.{scores.reported} is missing"
    if record.stopped and record.stopped.epoch >= record.settings.epochs:
        yield f"stopped.epoch is {record.stopped.epoch}, and the run has {record.settings.epochs}"
    if record.parameters.trainable is None:
        yield "parameters.trainable is missing"


def mistake_in_values(values: Any) -> str | None:
    """Return the first place where JSON values do not have a record's types: ``config.seed is "0", not int``.

    Returns None if all types are right.
    """
    found = _error(values)
    if found is None:
        return None
    path, what = _path(values, found), PLACE.sub("", found)
    if missing := re.search(r"missing required field `(\w+)`", what):
        return ".".join([*map(str, path), missing[1]]) + " is missing"
    expected = re.match(r"Expected (.*?)(, got .*)?$", what)
    wanted = FORM.sub("text of letters, digits and _ . + -", expected[1].replace("`", "")) if expected else ""
    reason = f"not {wanted}" if expected else what
    return f"{'.'.join(map(str, path)) or 'it'} is {_shown(_at(values, path))}, {reason}"


def _error(values: Any) -> str | None:
    """Return msgspec's error message, with the full path of the wrong value; None if the values are right."""
    try:
        from_values(values)
    except msgspec.ValidationError as error:
        return _from_top(str(error))
    return None


def _from_top(message: str) -> str:
    """Join the places in a message into one path. Msgspec lists several, each inside the next."""
    place = "".join(reversed(PLACE.findall(message)))
    return f"{PLACE.sub('', message)} - at `${place}`"


def _path(values: Any, message: str) -> list[str | int]:
    """Return the keys and positions that lead to the wrong value."""
    path: list[str | int] = []
    for step in re.findall(r"\.\w+|\[\d+\]|\[\.\.\.\]", PLACE.findall(message)[0]):
        if step == ANY_KEY:
            path.append(_wrong_key(values, path, message))
        else:
            path.append(step[1:] if step.startswith(".") else int(step[1:-1]))
    return path


def _wrong_key(values: Any, path: list[str | int], message: str) -> str:
    """Return the key of a mapping's wrong value: the one that alone gives the same message."""
    for key, value in _at(values, path).items():
        if _error(_with(values, path, {key: value})) == message:
            return key
    return "?"


def _with(values: Any, path: Sequence[str | int], value: Any) -> Any:
    """Return JSON values with another value at a place; only what encloses it is copied."""
    if not path:
        return value
    copied = values.copy()
    copied[path[0]] = _with(values[path[0]], path[1:], value)
    return copied


def _at(values: Any, path: list[str | int]) -> Any:
    for key in path:
        values = values[key]
    return values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
