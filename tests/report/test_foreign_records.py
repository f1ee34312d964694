"""A folder with files that are not records: tables and figures use the others, and no reader crashes."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records, runs_folder, save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.paper import figure6
from rosa_bench.report.figures.studies import lr_sensitivity
from rosa_bench.report.make_figures import make_figures
from rosa_bench.report.make_tables import make_tables
from rosa_bench.report.tables.paper import table1, table2
from rosa_bench.report.writers.markdown import markdown
from rosa_bench.system.errors import UserError

MakeRecord = Callable[..., RunRecord]
BAD = {"a.json": "", "b.json": '{"id": "x", "sta', "c.json": "[1, 2]", "d.json": '{"name": "rosa"}', "e.json": '"x"'}


@pytest.fixture
def good(make_record: MakeRecord) -> list[RunRecord]:
    """Runs that give both tables and figures."""
    records = [make_record(f"lr={lr}", "epochs=1") for lr in ("1e-3", "1e-4")]
    for record in records:
        figure = {"matthews_correlation": 0.5, "loss": 1.0}
        record.scores.epochs = [EpochScores(train_loss=1.0, scores=figure, time_s=1.0)]
        record.deviations["epochs"] = [1, 10]
    return records


def leave(folder: Path, files: dict[str, str]) -> None:
    runs_folder(folder).mkdir(exist_ok=True)
    for name, text in files.items():
        (runs_folder(folder) / name).write_text(text)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "tables": lambda folder: make_tables(folder, write=True),
    "figures": make_figures,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_good_records_are_used_and_the_others_are_counted_at_the_end(
    good: list[RunRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    for record in good:
        save_record(record, tmp_path)
    COMMANDS[command](tmp_path)
    paths = [path for path in (tmp_path / command).iterdir() if path.suffix != ".png"]
    alone = [path.read_bytes() for path in paths]
    assert caplog.messages == []
    leave(tmp_path, BAD)
    COMMANDS[command](tmp_path)
    assert [path.read_bytes() for path in paths] == alone
    *named, counted = caplog.messages
    assert [message.partition(" ")[0] for message in named] == [str(runs_folder(tmp_path) / name) for name in BAD]
    assert counted == f"5 of 7 files in {runs_folder(tmp_path)} could not be read; see above"
    assert all((runs_folder(tmp_path) / name).read_text() == text for name, text in BAD.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_if_nothing_can_be_made_the_error_counts_unreadable_files(tmp_path: Path, command: str) -> None:
    leave(tmp_path, BAD)
    with pytest.raises(UserError, match=r"5 of 5 files in .* could not be read; see above"):
        COMMANDS[command](tmp_path)
    assert not (tmp_path / command).exists()


def places(values: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yield the path to every value in ``values``, except versions and similar fields that nothing reads."""
    for key in values if isinstance(values, dict) else range(len(values)):
        yield (*at, key)
        if isinstance(values[key], dict | list):
            yield from places(values[key], (*at, key))


GONE = object()


@pytest.mark.slow
@pytest.mark.parametrize("other", [
    pytest.param(GONE, id="gone"),
    pytest.param(None, id="null"),
    pytest.param([], marks=pytest.mark.long, id="a list"),
    pytest.param("x", marks=pytest.mark.long, id="a text"),
])  # fmt: skip
def test_a_record_with_any_value_replaced_is_rejected_or_harmless(
    good: list[RunRecord], tmp_path: Path, other: object
) -> None:
    record, beside = good
    save_record(beside, tmp_path)
    values, path = to_values(record), runs_folder(tmp_path) / f"{record.id}.json"
    refused = 0
    for *inside, last in places(values):
        changed = copy.deepcopy(values)
        place: Any = changed
        for key in inside:
            place = place[key]
        if other is GONE:
            del place[last]
        else:
            place[last] = other
        path.write_text(json.dumps(changed))
        records = load_records(tmp_path)
        refused += bool(records.unread)
        if not records.unread:
            groups = select(records)
            markdown(table2.build(groups), "")
            table1.build(groups)
    assert refused > 30
    path.write_text(json.dumps(values))
    records = load_records(tmp_path)
    assert not records.unread
    assert figure6.draw(select(records)) and lr_sensitivity.draw(records)
