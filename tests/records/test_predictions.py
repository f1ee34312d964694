import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from rosa_bench.records.predictions import DIGITS, RowPredictions, path, read, save
from rosa_bench.records.store import load_records, runs_folder, superseded_folder
from rosa_bench.system.errors import UserError

ROWS = "a" * 64
CLASSES = {"run": "a-run", "epoch": 3, "rows": ROWS, "labels": [0, 1], "predictions": [1, 1], "percent": [40, 99]}

columns = st.integers(min_value=1, max_value=20).flatmap(
    lambda rows: st.tuples(*(st.lists(st.integers(0, most), min_size=rows, max_size=rows) for most in (5, 5, 100)))
)


def of_classes(labels: list[int], predictions: list[int], percent: list[int]) -> RowPredictions:
    return RowPredictions(
        run="a-run", epoch=3, rows=ROWS, labels=[*labels], predictions=[*predictions], percent=percent
    )


@given(columns)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_saved_predictions_are_read_back(tmp_path: Path, lists: tuple[list[int], list[int], list[int]]) -> None:
    rows = of_classes(*lists)
    assert read(save(rows, tmp_path / "runs/a/b/a-run.json", tmp_path)) == rows


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_the_values_of_a_regression_are_rounded_and_read_back(tmp_path: Path, values: list[float]) -> None:
    rows = RowPredictions.of_values(values, labels=[3.8] * len(values), run="a-run", epoch=1, rows=ROWS)
    assert rows.labels == [3.8] * len(values)
    assert rows.predictions == pytest.approx(values, rel=0.5 * 10 ** (1 - DIGITS), abs=1e-300)
    found = read(save(rows, tmp_path / "runs/a/b/a-run.json", tmp_path))
    assert found == rows
    assert found.percent is UNSET


def test_a_row_takes_a_few_bytes(tmp_path: Path) -> None:
    count = 1043
    rows = of_classes([0] * count, [1] * count, [50] * count)
    assert save(rows, tmp_path / "runs/a/b/a-run.json", tmp_path).stat().st_size < 7 * count + 250


def test_replaced_predictions_are_kept_and_equal_ones_are_not_doubled(tmp_path: Path) -> None:
    record = runs_folder(tmp_path) / "a" / "b" / "a-run.json"
    first, second = of_classes([0, 1], [1, 1], [40, 99]), of_classes([0, 1], [0, 1], [80, 99])
    for rows in (first, first, second, second):
        assert save(rows, record, tmp_path) == path(record)
    assert read(path(record)) == second
    [aside] = superseded_folder(tmp_path).iterdir()
    assert aside.name == "a-run-1.predictions.jsonl"
    assert read(aside) == first
    found = load_records(tmp_path)
    assert (found, found.unread) == ([], "")  # they are not taken for a record


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in CLASSES.items() if name != key}


@pytest.mark.parametrize(("content", "said"), [
    ("", "not a file of predictions"),
    ("[]", "not a file of predictions"),
    ("nonsense", "not a file of predictions"),
    (json.dumps(CLASSES)[:-1] + ', "epoch": 1}', 'the key "epoch" occurs twice'),
    (json.dumps(without("rows")), "rows"),
    (json.dumps(without("labels")), "labels"),
    (json.dumps({**CLASSES, "labels": [0]}), "columns of different lengths"),
    (json.dumps({**CLASSES, "percent": [1, 2, 3]}), "columns of different lengths"),
    (json.dumps({**CLASSES, "percent": [1, 101]}), "percent"),
    (json.dumps({**CLASSES, "labels": [], "predictions": [], "percent": []}), "labels"),
    (json.dumps({**CLASSES, "labels": [0, "1"]}), "labels"),
    (json.dumps({**CLASSES, "labels": [0, float("nan")]}), "labels"),
    (json.dumps({**CLASSES, "labels": [0, 1e200]}), "labels"),
    (json.dumps({**CLASSES, "rows": "../../etc"}), "rows"),
    (json.dumps({**CLASSES, "run": "../a"}), "run"),
    (json.dumps({**CLASSES, "epoch": 0}), "epoch"),
])  # fmt: skip
def test_a_file_that_is_not_predictions_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "a.predictions.jsonl"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        read(file)
    assert str(raised.value).startswith(str(file))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def huge(place: Path) -> None:
    place.touch()
    os.truncate(place, 2**30)


@pytest.mark.parametrize("make", [
    lambda _place: None, Path.mkdir, lambda place: place.symlink_to("/dev/zero"), huge,
], ids=["missing", "folder", "device", "huge"])  # fmt: skip
def test_what_is_not_a_small_file_is_refused(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    place = tmp_path / "a.predictions.jsonl"
    make(place)
    with pytest.raises(UserError, match=r"a\.predictions\.jsonl"):
        read(place)
