"""What a run changes: its settings against today's defaults, so that a row's name means what it says today.

A record also has ``deviations``, from the defaults of the day it was made. Where a default has changed since, an old
run at the old default is now a run with that setting changed, and an old run that set today's default is a plain one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from rosa_bench.config.identity.defaults import Default, defaults_of
from rosa_bench.config.identity.run_id import GENERATOR_NAMES, is_found, is_identity, value_before
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.kept import kept
from rosa_bench.system.setting import ABSENT

TODAY = {old: name for name, old in GENERATOR_NAMES.items()}  # generators have been renamed
Changes = dict[str, tuple[Any, Any]]  # key -> (value, default)


@dataclass(frozen=True)
class InNull:
    """In place of the value of a setting in a section that is null: the place of that section."""

    section: tuple[str, ...]


@kept
def changes_of(record: RunRecord) -> Changes:
    """Return the settings of a run that differ from today's defaults and can change a score, sorted by key.

    Settings that today's version does not know, and runs whose task, model, method or protocol it does not know, are
    as the record says.
    """
    settings = record.settings
    names = (settings.task.name, settings.model.name, settings.method.name, settings.protocol.name)
    recorded = {key: (value, then) for key, (value, then) in record.deviations.items() if is_identity(key)}
    defaults = defaults_of(*names)
    if defaults is None:
        return dict(sorted(recorded.items()))
    found = {key: change for key, change in recorded.items() if key not in defaults}
    null: dict[str, dict[str, Any]] = {}
    for key, default in defaults.items():
        if key not in recorded and default.place[0] == "task" and is_found(key, settings.task.name):
            continue
        expected = record.setting(default.follows, default.value) if default.follows else default.value
        value = recorded[key][0] if key in recorded else _value(record, key, default)
        if isinstance(value, InNull):
            _put(null.setdefault(".".join(value.section), {}), default.place[len(value.section) :], expected)
        elif value is not ABSENT and _today(value) != expected:
            found[key] = value, expected
    return dict(sorted({**found, **{key: (None, expected) for key, expected in null.items()}}.items()))


def _put(settings: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    """Put a value into nested dictionaries."""
    *above, name = place
    for part in above:
        settings = settings.setdefault(part, {})
    settings[name] = value


def _value(record: RunRecord, key: str, default: Default) -> Any:
    """Return a setting of a run, or what was used before the setting existed; `ABSENT` if that is not known.

    `InNull` if the run sets a section around it to null.
    """
    found: Any = record.config
    for depth, name in enumerate(default.place):
        if found is None:
            return InNull(default.place[:depth])
        if not isinstance(found, dict) or name not in found:
            return _before(key, record.settings.method.name if default.place[0] == "method" else None)
        found = found[name]
    return found


def _today(value: Any) -> Any:
    return TODAY.get(value, value) if isinstance(value, str) else value


@cache
def _before(key: str, method: str | None) -> Any:
    return value_before(key, method)
