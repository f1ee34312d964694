import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.records.parts.mappings import PeakBytes, Seconds
from rosa_bench.records.parts.measured import EpochScores, Scores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.tables.runs import run_rows
from rosa_bench.report.writers.tidy_csv import tidy_csv

MakeRecord = Callable[..., RunRecord]
RESULTS = Path(__file__).parents[3] / "results"


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_has_what_the_record_has(make_record: MakeRecord) -> None:
    run = make_record(
        "method=rosa", "rank=8", "lr=0.002", "seed=3",
        dev=0.1 + 0.2, held_out=0.25, last=0.2, deviations={"epochs": [3, 10]}, git={"commit": "c", "dirty": False},
        time_s=Seconds(total=12.5), memory_bytes=PeakBytes(load=1, train=7), resamples=4,
    )  # fmt: skip
    run.scores.epochs = [EpochScores(train_loss=loss, scores={"matthews_correlation": 0.5}) for loss in (9.0, 1.5)]
    run.last["spread"] = 0.0
    [row] = read(tidy_csv(run_rows([run])))
    expected = {
        "id": run.id, "status": "completed", "task": "cola", "method": "rosa", "rank": "8", "lr": "0.002", "seed": "3",
        "selected_score": "0.30000000000000004", "selected_epoch": "7", "last_score": "0.2", "selection_score": "0.25",
        "selected_on": "held_out", "last_train_loss": "1.5", "collapsed": "true", "trainable_parameters": "626688",
        "time_s": "12.5", "peak_memory_bytes": "7", "resamples": "4", "deviations": '{"epochs": 3}', "commit": "c",
        "dirty": "false", "torch": "", "error": "",
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected


def test_a_run_that_broke_off_and_an_error_have_rows_too(make_record: MakeRecord, make_synthetic: MakeRecord) -> None:
    failed = make_record("method=ft", status="failed", error="the loss is nan", scores=Scores())
    rows = read(tidy_csv(run_rows([failed, make_synthetic([[0.5, 0.1]])])))
    assert [(row["status"], row["error"], row["selected_score"], row["rank"]) for row in rows] == [
        ("failed", "the loss is nan", "", ""),
        ("completed", "", "0.1", "8"),
    ]


def test_how_many_processes_shared_the_gpu_is_a_column_once_a_record_says_it(make_record: MakeRecord) -> None:
    runs = [make_record("seed=0"), make_record("seed=1")]
    assert "shared_by" not in read(tidy_csv(run_rows(runs)))[0]
    runs[1].device.shared_by = 3
    assert [row["shared_by"] for row in read(tidy_csv(run_rows(runs)))] == ["", "3"]


def test_with_how_many_runs_a_run_was_packed_is_a_column_once_a_record_says_it(make_record: MakeRecord) -> None:
    runs = [make_record("seed=0"), make_record("seed=1")]
    assert "packed" not in read(tidy_csv(run_rows(runs)))[0]
    runs[1].packed = 4
    assert [row["packed"] for row in read(tidy_csv(run_rows(runs)))] == ["", "4"]


@pytest.mark.skipif(not RESULTS.exists(), reason="needs the committed records")
def test_the_committed_file_has_every_committed_run() -> None:
    written = read((RESULTS / "tables/runs.csv").read_text())
    paths = list((RESULTS / "runs").glob("*/*/*.json"))
    assert sorted(row["id"] for row in written) == sorted(path.stem for path in paths)
    by_id = {path.stem: path for path in paths}
    for row in [row for row in written if row["status"] == "completed"][::100]:
        record = json.loads(by_id[row["id"]].read_text())
        assert float(row["selected_score"]) == record["scores"]["selected"][record["scores"]["reported"]]
