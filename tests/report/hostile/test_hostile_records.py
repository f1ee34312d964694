"""Records that anybody may have written: each is refused in one line, or every report is made of it."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.system.errors import UserError

Values = list[dict[str, Any]]
Mutate = Callable[..., Iterator[tuple[str, dict[str, Any]]]]
Makers = dict[str, Callable[[list[RunRecord]], dict[str, str | bytes]]]


def read(folder: Path, values: dict[str, Any]) -> RunRecord | str:
    """Write a file and read it as a record, or return the reason why it is not one."""
    path = folder / "x.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    try:
        return load_record(path)
    except UserError as error:
        return str(error)


def accepted(
    records: Values, folder: Path, mutate: Mutate, *, count: int, seed: int
) -> Iterator[tuple[str, int, RunRecord]]:
    """Yield mutated records that are accepted: what was changed, the place of the original, and the record."""
    for number, values in enumerate(records):
        for said, changed in mutate(values, count, seed + number):
            found = read(folder, changed)
            if isinstance(found, RunRecord):
                yield said, number, found
            else:
                assert "\n" not in found, said
                assert "Traceback" not in found


def reports_are_made(makers: Makers, records: list[RunRecord], said: str) -> None:
    for name, make in makers.items():
        try:
            made = make(records)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError(f"{name} of a record with {said}") from error
        assert made


@pytest.mark.slow
def test_every_report_is_made_of_the_records_that_are_mutated(every_kind: list[RunRecord], makers: Makers) -> None:
    made = {name: make(every_kind) for name, make in makers.items()}
    assert all(made.values()), [name for name, one in made.items() if not one]
    figures = {name for name in made["figures"] if name.endswith(".svg")}
    assert len(figures) >= 7, figures


QUICK = ("tables", "comparisons", "commands")  # the others draw pictures
CASES = 12  # of many mutated records; each draws all figures


def test_a_mutated_record_is_refused_in_one_line_or_tabled(
    values: Values, mutate: Mutate, makers: Makers, tmp_path: Path
) -> None:
    good = [one for one in (read(tmp_path, one) for one in values) if isinstance(one, RunRecord)]
    found = list(accepted(values, tmp_path, mutate, count=12, seed=7))
    assert len(found) > 20
    quick = {name: makers[name] for name in QUICK}
    reports_are_made(quick, [*good, *(run for _, _, run in found)], "; ".join(said for said, _, _ in found))
    for said, _, run in found[::9]:  # alone: nothing beside it fills its group
        reports_are_made(quick, [run], said)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_a_mutated_record_is_refused_in_one_line_or_every_report_is_made(
    values: Values, mutate: Mutate, makers: Makers, tmp_path: Path, seed: int
) -> None:
    found = list(accepted(values, tmp_path, mutate, count=25, seed=100 * seed))
    random.Random(seed).shuffle(found)
    good = [one for one in (read(tmp_path, one) for one in values) if isinstance(one, RunRecord)]
    records = [*good, *(run for _, _, run in found)]
    reports_are_made(makers, records, "; ".join(said for said, _, _ in found))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1004))
def test_many_mutated_records(values: Values, mutate: Mutate, makers: Makers, tmp_path: Path, seed: int) -> None:
    """Most records of each task stay good, so that a mutated one is beside others in its tables and figures."""
    good = [one for one in (read(tmp_path, one) for one in values) if isinstance(one, RunRecord)]
    assert len(good) == len(values)
    by_task = defaultdict(list)
    for place, run in enumerate(good):
        by_task[run.settings.task.name].append(place)
    some = {name: make for name, make in makers.items() if name != "figures"}  # the pages draw the same
    draw = random.Random(seed)
    for _ in range(CASES):
        records, said = good.copy(), []
        for place in (one for places in by_task.values() for one in draw.sample(places, max(1, len(places) // 4))):
            tried = accepted([values[place]], tmp_path, mutate, count=1000, seed=draw.getrandbits(32))
            what, _, records[place] = next(tried)
            said.append(what)
        reports_are_made(some, records, "; ".join(said))
