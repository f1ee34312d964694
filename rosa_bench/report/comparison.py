"""Parse settings on a command line that select recorded runs, as ``rosa-bench compare`` and others take them."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from rosa_bench.config.identity.run_id import is_identity, value_before
from rosa_bench.config.overrides.grammar import spelled, written
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import GROUPS, METHOD, Deviation, frozen, listed, words
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import ABSENT

APART = ("task", "model", "protocol", "seed")  # several values of these select runs, and are not compared


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of several sides: each but the last, minus the last.

    keys   the settings in which the sides differ
    sides  one tuple per side: its values of ``keys``
    given  further conditions: for each setting, the values that a run may have
    own    the sets of changes to a method's settings that a run may have besides; usually only the empty set
    """

    keys: tuple[str, ...]
    sides: tuple[tuple[Hashable, ...], ...]
    given: Mapping[str, tuple[Hashable, ...]]
    own: frozenset[tuple[Deviation, ...]] = frozenset({()})

    @property
    def settings(self) -> dict[str, tuple[Hashable, ...]]:
        """All settings on the command line: key -> values."""
        return {**dict(zip(self.keys, zip(*self.sides, strict=True), strict=True)), **self.given}

    @property
    def of_methods(self) -> dict[str, tuple[Hashable, ...]]:
        """The conditions in ``given`` that are on a method's own settings: key -> its one value."""
        return {key: values for key, values in self.given.items() if _is_of_a_method(key)}

    def values_without(self, key: str, side: tuple[Hashable, ...], runs: Iterable[RunRecord]) -> Mapping[Hashable, int]:
        """Count a setting's values in the runs that a side would have if ``key`` were not given.

        The count is empty if some of them do not have the setting.
        """
        without = replace(self, given={other: values for other, values in self.given.items() if other != key})
        found = Counter(value_of(run, key) for run in runs if without.admits(run, [side]))
        return {} if ABSENT in found else found

    def admits(self, run: RunRecord, sides: Iterable[tuple[Hashable, ...]]) -> bool:
        """Whether a run belongs to one of these sides and meets the conditions in ``given``."""
        return any(
            all(self._has(run, key, (value,)) for key, value in zip(self.keys, side, strict=True)) for side in sides
        ) and all(self._has(run, key, values) for key, values in self.given.items())

    def not_asked(self, changes: Iterable[Deviation]) -> tuple[Deviation, ...]:
        """Return the changes whose settings are not on the command line."""
        return tuple(change for change in changes if change.key not in self.settings)

    def allows(self, changes: Iterable[Deviation]) -> bool:
        """Whether a run with these changes to its method's settings takes part."""
        return self.not_asked(changes) in self.own

    def _has(self, run: RunRecord, key: str, values: tuple[Hashable, ...]) -> bool:
        """Whether a run has one of these values. A method without the setting, such as a rank, passes too."""
        found = value_of(run, key)
        return found in values or (found is ABSENT and key != self.keys[0] and _is_of_a_method(key))


def comparison(arguments: Sequence[str]) -> Comparison:
    """Parse a comparison from a command line.

    Raises `UserError` unless some setting has several values, or if a side is given twice.
    """
    if odd := [argument for argument in arguments if "=" not in argument]:
        raise UserError(f"{odd[0]} is not KEY=VALUE; write for example: method=rosa,lora protocol=fair")
    settings = values_of(arguments)
    compared = {key: values for key, values in settings.items() if len(values) > 1 and key not in APART}
    if not compared:
        raise UserError(
            "no setting has several values to compare; give some, for example method=rosa,lora (several values of "
            f"{', '.join(APART)} only select runs)"
        )
    if len({len(values) for values in compared.values()}) > 1:
        counts = ", ".join(f"{key} {len(values)}" for key, values in compared.items())
        raise UserError(f"settings that change together need equally many values: {counts}")
    sides = Counter(zip(*compared.values(), strict=True))
    if twice := [side for side, count in sides.items() if count > 1]:
        name = " ".join(f"{key}={typed(value)}" for key, value in zip(compared, twice[0], strict=True))
        raise UserError(f"{name} is given more than once; give each side once, with the one to compare with last")
    return Comparison(
        keys=tuple(compared),
        sides=tuple(sides),
        given={key: values for key, values in settings.items() if key not in compared},
    )


def values_of(arguments: Sequence[str]) -> dict[str, tuple[Hashable, ...]]:
    """Parse the settings on a command line: dotted key -> values."""
    settings: dict[str, tuple[Hashable, ...]] = {}
    for override in OverridesParser.create().parse_overrides(spelled(arguments, sweep=True)):
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        settings[override.key_or_group] = tuple(map(_plain, values))
    return settings


def tells_runs_apart(key: str) -> bool:
    """Whether a setting is part of a run's identity. Other settings only say where and how a run is made."""
    known = {field.name for field in fields(RunConfig)}
    return key == "rank" or (key.partition(".")[0] in known and is_identity(key))


def value_of(run: RunRecord, key: str) -> Any:
    """Return a run's value for a dotted key, or `ABSENT`. Runs older than the setting get the value it had then."""
    path = {"rank": "method.rank", **{group: f"{group}.name" for group in GROUPS}}.get(key, key)
    name = run.setting(f"{path.partition('.')[0]}.name", None)
    return frozen(run.setting(path, value_before(path, name if isinstance(name, str) else None)))


def check_values(key: str, values: Iterable[Hashable], runs: Iterable[RunRecord]) -> None:
    """Raise `UserError` if no run has this setting or one of these values."""
    there = {value_of(run, key) for run in runs} - {ABSENT}
    if not there:
        raise UserError(f"these runs have no setting {key}; rosa-bench --cfg job lists the settings")
    if absent := [value for value in values if value not in there]:
        raise UserError(f"no run has {key}={words(absent[0])}; values found: {listed(there)}")


def typed(value: Hashable) -> str:
    """Write a value such that a user can type it."""
    return words(value) if isinstance(value, float) else written(value)


def _plain(value: Any) -> Hashable:
    """Convert a value parsed by Hydra to the form that records hold."""
    return value.text if isinstance(value, QuotedString) else frozen(value)


def _is_of_a_method(key: str) -> bool:
    return key == "rank" or key.startswith(METHOD)
