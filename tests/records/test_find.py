from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.records.find import elsewhere, find_record
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import runs_folder, save_record
from rosa_bench.system.errors import UserError

IDS = {
    "cola-bert-rosa-r8-11aa": "2026-01-02",
    "cola-bert-lora-r8-22bb": "2026-01-03",
    "cola-bert-lora-r2-33cc": "2026-01-01",
}


@pytest.fixture
def folder(make_record: Callable[..., RunRecord], tmp_path: Path) -> Path:
    """A results folder with three runs, the second of which was started last."""
    for name, day in IDS.items():
        save_record(make_record("task=cola", id=name, started_at=f"{day}T00:00:00+00:00"), tmp_path)
    return tmp_path


@pytest.mark.parametrize(("typed", "found"), [
    ("cola-bert-rosa-r8-11aa", "cola-bert-rosa-r8-11aa"),
    ("cola-bert-r", "cola-bert-rosa-r8-11aa"),
    ("22bb", "cola-bert-lora-r8-22bb"),
    ("last", "cola-bert-lora-r8-22bb"),
])  # fmt: skip
def test_a_run_is_found_by_what_is_typed(folder: Path, typed: str, found: str) -> None:
    record, path = find_record(typed, folder)
    assert (record.id, path.stem) == (found, found)
    assert find_record(str(path), Path("elsewhere"))[0].id == found


@pytest.mark.parametrize(("typed", "words"), [
    ("cola-bert-lora", ["may mean 2 runs", "cola-bert-lora-r2-33cc, cola-bert-lora-r8-22bb"]),
    ("cola-bert-roza-r8-11aa", ["did you mean cola-bert-rosa-r8-11aa?"]),
    ("2bb", ["2bb is not a run", "rosa-bench ls"]),
    ("", ["is not a run"]),
])  # fmt: skip
def test_an_unknown_or_ambiguous_run_is_an_error_of_one_line(folder: Path, typed: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find_record(typed, folder)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_an_exact_id_wins_over_one_that_it_begins(folder: Path, make_record: Callable[..., RunRecord]) -> None:
    save_record(make_record("task=cola", id="cola-bert-lora"), folder)
    assert find_record("cola-bert-lora", folder)[0].id == "cola-bert-lora"


@pytest.mark.parametrize("flat", ["completed", "interrupted"])
def test_of_two_records_of_a_run_the_completed_one_counts(
    make_record: Callable[..., RunRecord], tmp_path: Path, flat: str
) -> None:
    for status, day in (("completed", "02"), ("interrupted", "03")):
        record = make_record("task=cola", id="cola-22bb", status=status, started_at=f"2026-01-{day}T00:00:00Z")
        path = save_record(record, tmp_path / status)
        place = runs_folder(tmp_path) / ("" if status == flat else path.parent.relative_to(tmp_path / status / "runs"))
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)  # older versions had all records in one folder
    assert find_record("22bb", tmp_path)[0].status == find_record("last", tmp_path)[0].status == "completed"


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs"):
        find_record("last", tmp_path)


def test_other_folders_with_runs_are_named(
    folder: Path, make_record: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert elsewhere(folder) == ""
    for name in ("smoke", "other"):
        save_record(make_record("task=cola"), Path("outputs") / name)
    assert elsewhere(folder) == "; there are runs in results_dir=outputs/other, results_dir=outputs/smoke"
    assert elsewhere(Path("outputs/other")) == "; there are runs in results_dir=outputs/smoke"
    with pytest.raises(UserError, match=r"^results_dir=x has no runs.*; there are runs in results_dir=outputs/other"):
        find_record("last", Path("x"))
    save_record(make_record("task=cola"), Path("outputs"))
    assert elsewhere(Path("outputs/other")) == "; there are runs in results_dir=outputs, results_dir=outputs/smoke"
