import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import SCHEMA, RunRecord, to_values
from rosa_bench.records.store import (
    load_record,
    load_records,
    record_path,
    record_paths,
    runs_folder,
    save_record,
    superseded_folder,
)
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic

Make = Callable[..., RunRecord]
LATER = "2026-01-02T04:00:00+00:00"


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_a_record_is_read_back_unchanged(record: Make, tmp_path: Path, status: str) -> None:
    written = record(status, error="because" if status == "failed" else None)
    path = save_record(written, tmp_path)
    assert path == tmp_path / "runs" / "x" / "x" / f"{written.id}.json"
    assert load_record(path) == written
    assert load_records(tmp_path) == [written]


def test_the_earlier_record_stays_if_its_successor_cannot_be_written(
    record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_record(record("failed"), tmp_path)
    path = save_record(record(), tmp_path)  # by now there is a folder of superseded records
    before = path.read_bytes()

    def full(to: Path, content: bytes | str) -> None:
        if to == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomic(to, content)

    monkeypatch.setattr("rosa_bench.records.store.write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        save_record(record(), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_lacks_is_written_and_read_as_null(record: Make, tmp_path: Path, number: float) -> None:
    written = record()
    written.scores.epochs[0].train_loss = number
    written.scores.selection_score = number
    written.scores.selected = Result({"epoch": 1, "accuracy": number})
    path = save_record(written, tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["scores"]["epochs"][0]["train_loss"] is None
    assert values["scores"]["selected"] == {"epoch": 1, "accuracy": None}
    read = load_record(path)
    assert (read.scores.epochs[0].train_loss, read.selected["accuracy"]) == (None, None)
    assert math.isnan(read.score)
    assert math.isnan(read.selection_score)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e101"])
def test_an_older_record_with_such_a_number_is_read(record: Make, tmp_path: Path, number: str) -> None:
    path = save_record(record(), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert '"accuracy": 0.30000000000000004' in text
    path.write_text(text.replace("0.30000000000000004", number), encoding="utf-8")
    found = load_record(path)
    assert found.selected == {"epoch": 1, "accuracy": None}
    assert math.isnan(found.score)


def test_a_record_is_plain_json(record: Make, tmp_path: Path) -> None:
    values = json.loads(save_record(record(), tmp_path).read_bytes().decode("utf-8"))
    assert values["status"] == "completed"
    assert values["schema"] == SCHEMA
    assert values["scores"]["selected"]["accuracy"] == 0.1 + 0.2  # all digits
    assert values["config"]["task"]["title"] == "é — 漢"


def test_a_folder_without_records_is_empty(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []


def test_an_unknown_field_is_ignored(record: Make, tmp_path: Path) -> None:
    path = save_record(record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert load_record(path) == record()


def test_a_later_schema_is_rejected(record: Make, tmp_path: Path) -> None:
    path = save_record(replace(record(), schema=SCHEMA + 1), tmp_path)
    message = f"{path} has schema {SCHEMA + 1}, and this version reads {SCHEMA}; update rosa-bench to read it"
    with pytest.raises(UserError) as raised:
        load_record(path)
    assert str(raised.value) == message
    path.write_text(json.dumps({"schema": SCHEMA + 1, "scores": "of another shape"}))
    with pytest.raises(UserError) as raised:
        load_record(path)
    assert str(raised.value) == message


# Nothing is lost


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
@pytest.mark.parametrize("earlier_status", ["failed", "interrupted"])
def test_a_replaced_record_is_kept(record: Make, tmp_path: Path, earlier_status: str, status: str) -> None:
    earlier = save_record(record(earlier_status), tmp_path).read_bytes()
    later = record(status, started_at=LATER)
    assert load_record(save_record(later, tmp_path)) == later
    assert load_records(tmp_path) == [later]
    [aside] = superseded_folder(tmp_path).iterdir()
    assert aside.read_bytes() == earlier


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_only_a_completed_record_replaces_a_completed_one(record: Make, tmp_path: Path, status: str) -> None:
    completed = record()
    place = save_record(completed, tmp_path)
    before = place.read_bytes()
    broken = record(status, started_at=LATER)
    path = save_record(broken, tmp_path)
    assert load_record(path) == broken
    assert path.parent == superseded_folder(tmp_path)
    assert load_records(tmp_path) == [completed]
    assert place.read_bytes() == before


def test_every_replaced_record_is_kept(record: Make, tmp_path: Path) -> None:
    # Short runs may start within the same second, which is the precision of `started_at`.
    for number in range(4):
        save_record(record(versions={"number": str(number)}), tmp_path)
    kept = [load_record(path) for path in runs_folder(tmp_path).rglob("*.json")]
    assert sorted(one.versions["number"] for one in kept) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_damaged_earlier_record_does_not_prevent_saving(record: Make, tmp_path: Path, status: str) -> None:
    path = save_record(record(), tmp_path)
    path.write_text("half a reco")
    later = record(status)
    save_record(later, tmp_path)  # as at the end of a run of several hours
    kept = [found.read_text() for found in runs_folder(tmp_path).rglob("*.json")]
    assert "half a reco" in kept
    assert json.dumps(to_values(later), indent=1, ensure_ascii=False) + "\n" in kept
    assert load_records(tmp_path) == [later]


# Folders of older versions, which have all records in one folder


def flatten(path: Path, results_dir: Path) -> Path:
    return path.rename(runs_folder(results_dir) / path.name)


def test_flat_and_nested_records_are_sorted_by_name(record: Make, tmp_path: Path) -> None:
    records = [record(id=name) for name in "abcd"]
    paths = [save_record(one, tmp_path) for one in records]
    for path in paths[::2]:
        flatten(path, tmp_path)
    assert load_records(tmp_path) == records


def test_a_flat_record_is_replaced_in_place(record: Make, tmp_path: Path) -> None:
    earlier = record()
    flat = flatten(save_record(earlier, tmp_path), tmp_path)
    before = flat.read_bytes()
    assert record_path(tmp_path, earlier.id, task="x", model="x") == flat
    later = record(started_at=LATER)
    assert save_record(later, tmp_path) == flat
    assert load_records(tmp_path) == [later]
    [aside] = superseded_folder(tmp_path).iterdir()
    assert aside.read_bytes() == before


@pytest.mark.parametrize(("nested", "flat", "counts"), [
    (("completed", "2026-01-01"), ("failed", "2026-01-02"), "nested"),
    (("failed", "2026-01-02"), ("completed", "2026-01-01"), "flat"),
    (("completed", "2026-01-01"), ("completed", "2026-01-02"), "flat"),
    (("completed", "2026-01-02"), ("completed", "2026-01-01"), "nested"),
])  # fmt: skip
def test_a_run_with_two_records_counts_once(
    record: Make, tmp_path: Path, nested: tuple[str, str], flat: tuple[str, str], counts: str
) -> None:
    made = {
        place: record(status, started_at=f"{day}T00:00:00+00:00")
        for place, (status, day) in {"flat": flat, "nested": nested}.items()
    }
    flatten(save_record(made["flat"], tmp_path), tmp_path)
    place = runs_folder(tmp_path) / "x" / "x" / f"{made['nested'].id}.json"
    place.write_text(json.dumps(to_values(made["nested"])))
    assert load_records(tmp_path) == [made[counts]]
    assert record_path(tmp_path, made["flat"].id, task="x", model="x") == place


# Files that are not records


def test_good_records_are_read_and_other_files_are_named_and_counted(
    record: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = record()
    folder = save_record(good, tmp_path).parent
    for number, text in enumerate(["", '{"id": "x", "sta', "[1, 2]", '{"name": "rosa"}']):
        (folder / f"{number}.json").write_text(text)
    (folder / "link.json").symlink_to("nowhere")
    (folder / "folder.json").mkdir()
    (folder / "later.json").write_text(json.dumps({**to_values(good), "schema": SCHEMA + 1}))
    found = load_records(tmp_path)
    assert found == [good]
    assert found.unread == f"7 of 8 files in {runs_folder(tmp_path)} could not be read; see above"
    names = ["0.json", "1.json", "2.json", "3.json", "folder.json", "later.json", "link.json"]
    assert [message.partition(" ")[0] for message in caplog.messages] == [str(folder / name) for name in names]
    found.remind()
    assert caplog.messages[-1] == found.unread


def test_good_records_alone_give_no_message(record: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_record(record(), tmp_path)
    found = load_records(tmp_path)
    found.remind()
    assert (found.unread, caplog.messages) == ("", [])


def test_an_incomplete_run_needs_no_scores(record: Make, tmp_path: Path) -> None:
    for status in ("failed", "interrupted", "running"):
        save_record(record(status, id=status, scores={}, parameters={}), tmp_path)
    assert len(load_records(tmp_path)) == 3


def test_whatever_has_the_name_of_a_record_is_named_and_counted(
    record: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = record()
    folder = save_record(good, tmp_path).parent
    text = json.dumps(to_values(good))
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    (folder / "twice.json").write_text(text.replace('"status"', '"id": "other", "status"', 1))
    (folder / "deep.json").write_text(
        json.dumps({**to_values(good), "config": 0}).replace('"config": 0', f'"config": {deep}')
    )
    (folder / "digits.json").write_text(text.replace('"seed": 0', f'"seed": {"9" * 5000}'))
    (folder / "surrogate.json").write_text(text.replace('"name": "x"', '"name": "\\ud800"', 1))
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder.parent / "loop").symlink_to("loop")
    (folder / "line\nbreak \x1b[2J.json").write_text("{")
    found = load_records(tmp_path)
    assert found == [good]
    assert found.unread.startswith("8 of 9 files")
    assert len(caplog.messages) == 8
    assert all(message.replace(" ", "").isprintable() for message in caplog.messages)
    said = "\n".join(caplog.messages)
    for words in ('the key "id" occurs twice', "nested too deeply", "5,000 digits", "surrogate", "it is not a file"):
        assert words in said, words


def test_two_files_of_one_run_count_once(record: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_record(record(), tmp_path)
    (path.parent / "a copy of it.json").write_bytes(path.read_bytes())
    assert load_records(tmp_path) == [record()]
    assert "only one of the two counts" in caplog.text


@pytest.mark.parametrize(("key", "value"), [
    ("started_at", "2026-01-99T03:04:05+00:00"),
    ("started_at", "2026-01-02\x1b03:04:05+00:00"),
    ("started_at", "2026-W01-1T03:04:05+00:00"),
    ("status", "done"),
    ("versions", {"torch": 2}),
    ("versions", {"torch": None}),
    ("deviations", {"a\nb": [1, 2]}),
    ("deviations", {"task.seed; rm": [1]}),
    ("time_s", {"total": -1}),
    ("memory_bytes", {"train": 10**400}),
    ("resamples", -1),
    ("config", {"a": [[[[[[[[]]]]]]]]}),
])  # fmt: skip
def test_a_value_that_no_run_writes_is_refused(record: Make, tmp_path: Path, key: str, value: Any) -> None:
    values = to_values(record())
    values[key] = {**values[key], **value} if key == "config" else value
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"x\.json is not a run's record: .*; fix it or move it away") as raised:
        load_record(path)
    assert str(raised.value).replace(" ", "").isprintable()


@pytest.mark.parametrize(("folder", "only"), [
    ("runs", None),
    ("runs/x", None),
    ("runs/x/x", None),
    ("runs", [("x", "x")]),
    ("runs/x/x", [("x", "x")]),
])  # fmt: skip
def test_records_are_not_left_out_because_their_folder_cannot_be_read(
    record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, only: list[tuple[str, str]] | None
) -> None:
    """Root may read everything, so the answer of the system is made up."""
    save_record(record(), tmp_path)
    closed = tmp_path / folder
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)  # noqa: ARG005 - as it is called
    with pytest.raises(UserError, match=f"{closed} cannot be read: Permission denied; its owner can let you"):
        record_paths(tmp_path, only)


def test_a_record_of_somebody_else_is_not_to_be_moved_away(
    record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so reading is made to fail."""
    path = save_record(record(), tmp_path)
    for error, remedy in ((errno.EACCES, "its owner can let you, as by chmod g+r"), (errno.EIO, "move it away")):
        failing = Mock(side_effect=OSError(error, os.strerror(error), str(path)))
        with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
            patch.setattr(Path, "read_bytes", failing)
            load_record(path)
        assert str(raised.value) == f"{path} cannot be read: {os.strerror(error)}; {remedy}"
