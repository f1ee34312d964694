"""What a command line says of runs that are there: which are meant, and what ``rosa-bench compare`` shall tell."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from rosa_bench.config.identity import is_identity, value_before
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import GROUPS, METHOD, Deviation, frozen
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import ABSENT

APART = ("task", "model", "protocol", "seed")  # several values of these are not compared with each other


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared: sides, each but the last less the last.

    keys   the settings in which they differ
    sides  the values of these, a tuple a side
    given  what else a run must have: one of these values of each of these settings
    """

    keys: tuple[str, ...]
    sides: tuple[tuple[Hashable, ...], ...]
    given: Mapping[str, tuple[Hashable, ...]]

    @property
    def settings(self) -> dict[str, tuple[Hashable, ...]]:
        """All that is asked for: key -> values."""
        return {**dict(zip(self.keys, zip(*self.sides, strict=True), strict=True)), **self.given}

    def admits(self, run: RunRecord, sides: Iterable[tuple[Hashable, ...]]) -> bool:
        """Whether a run is of one of these sides, and has what is given."""
        return any(
            all(self._has(run, key, (value,)) for key, value in zip(self.keys, side, strict=True)) for side in sides
        ) and all(self._has(run, key, values) for key, values in self.given.items())

    def not_asked(self, changes: Iterable[Deviation]) -> tuple[Deviation, ...]:
        """Those of a run's changes that nothing was said of."""
        return tuple(change for change in changes if change.key not in self.settings)

    def _has(self, run: RunRecord, key: str, values: tuple[Hashable, ...]) -> bool:
        """Whether a run has one of these values. A rank, say, is no condition for a method without one."""
        found = value_of(run, key)
        return found in values or (found is ABSENT and key != self.keys[0] and _is_of_a_method(key))


def comparison(arguments: Sequence[str]) -> Comparison:
    """The comparison that a command line asks for. Raises `UserError` unless some setting has several values."""
    if odd := [argument for argument in arguments if "=" not in argument]:
        raise UserError(f"{odd[0]} is not KEY=VALUE; a comparison is asked for as in: method=rosa,lora protocol=fair")
    settings = values_of(arguments)
    compared = {key: values for key, values in settings.items() if len(values) > 1 and key not in APART}
    if not compared:
        raise UserError("nothing has several values; give them to what is to be compared, as in method=rosa,lora")
    if len({len(values) for values in compared.values()}) > 1:
        counts = ", ".join(f"{key} {len(values)}" for key, values in compared.items())
        raise UserError(f"settings that change together need as many values each: {counts}")
    return Comparison(
        keys=tuple(compared),
        sides=tuple(dict.fromkeys(zip(*compared.values(), strict=True))),
        given={key: values for key, values in settings.items() if key not in compared},
    )


def values_of(arguments: Sequence[str]) -> dict[str, tuple[Hashable, ...]]:
    """The settings on a command line, by their dotted keys, each with its values."""
    settings: dict[str, tuple[Hashable, ...]] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        settings[override.key_or_group] = tuple(map(_plain, values))
    return settings


def tells_runs_apart(key: str) -> bool:
    """Whether runs with other values of a setting are other runs; if not, it only says where and how they are made."""
    known = {field.name for field in fields(RunConfig)}
    return key == "rank" or (key.partition(".")[0] in known and is_identity(key))


def value_of(run: RunRecord, key: str) -> Any:
    """What a run has for a setting, by its dotted key, even if it is older than that; `ABSENT` if it has none."""
    path = {"rank": "method.rank", **{group: f"{group}.name" for group in GROUPS}}.get(key, key)
    return frozen(run.setting(path, value_before(path)))


def _plain(value: Any) -> Hashable:
    """A value out of Hydra's grammar as one out of a record."""
    return value.text if isinstance(value, QuotedString) else frozen(value)


def _is_of_a_method(key: str) -> bool:
    return key == "rank" or key.startswith(METHOD)
