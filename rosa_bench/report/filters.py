"""Keep the runs that have the settings on a command line: ``task=cola method=lora,rosa``."""

from collections.abc import Hashable, Mapping, Sequence

from rosa_bench.config.overrides.mistakes import check_setting
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import words
from rosa_bench.report.comparison import check_values, value_of, values_of
from rosa_bench.system.errors import UserError

Filters = Mapping[str, Sequence[Hashable]]


def filters_of(arguments: Sequence[str]) -> Filters:
    """Return the values that each setting may have. Raises `UserError` for a setting that does not exist."""
    wanted = values_of(arguments)
    for key in wanted:
        check_setting("method.rank" if key == "rank" else key)
    return wanted


def matching(records: Sequence[RunRecord], wanted: Filters) -> list[RunRecord]:
    """Return the runs that have one of the values of each setting.

    Raises `UserError` if no run has a setting or one of its values, or if no run has all of them.
    """
    for key, values in wanted.items():
        check_values(key, values, records)
    kept = [run for run in records if all(value_of(run, key) in values for key, values in wanted.items())]
    if not kept:
        given = " ".join(f"{key}={','.join(map(words, values))}" for key, values in wanted.items())
        raise UserError(f"no run has all of: {given}")
    return kept
