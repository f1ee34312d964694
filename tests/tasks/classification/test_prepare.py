"""Rows that cannot be scored are refused before anything is loaded."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.resolve import resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError

Run = Callable[..., RunRecord]

TINY = ("model=tiny_bert", "method=lora", "device=cpu", "epochs=1", "batch_size=4", "lr=1e-3")


def write(folder: Path, split: str, labels: list[float], *, task: str = "cola") -> None:
    """Rows of CoLA or STS-B with these labels."""
    (folder / "glue" / task).mkdir(parents=True, exist_ok=True)
    texts = ("sentence",) if task == "cola" else ("sentence1", "sentence2")
    rows = [{**dict.fromkeys(texts, f"row {number}"), "label": label} for number, label in enumerate(labels)]
    (folder / "glue" / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_on(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run_on("task=cola", ...)``: run on the rows of `write` in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> RunRecord:
        return run(resolve(compose(*TINY, f"data_dir={tmp_path}", *overrides), {}))

    return call


@pytest.mark.parametrize(("settings", "labels", "said"), [
    ("task=cola", [1, 1, 1], "all 3 validation rows have the label acceptable (1), so matthews_correlation is "
     "undefined; use rows with at least two different labels"),
    ("task=cola", [0], "there is only one of the validation rows, so matthews_correlation is undefined; use rows"),
    ("task=cola limit_eval=1", [0, 1, 0, 1], "there is only one of the validation rows, so matthews_correlation is "
     "undefined; use a larger limit_eval"),
    ("task=stsb", [3.3, 3.3, 3.3], "all 3 validation rows have the label 3.3, so pearson is undefined; use rows"),
    ("task=stsb task.score=spearman", [3.3, 3.3], "all 2 validation rows have the label 3.3, so spearman is undefined"),
    ("task=stsb limit_eval=1", [1.0, 2.0], "there is only one of the validation rows, so pearson is undefined"),
])  # fmt: skip
def test_constant_labels_are_refused_if_the_score_is_undefined(
    run_on: Run, tmp_path: Path, settings: str, labels: list[float], said: str
) -> None:
    task = settings.split(maxsplit=1)[0]
    write(tmp_path, "train", [0, 1, 0, 1], task=task.removeprefix("task="))
    write(tmp_path, "validation", labels, task=task.removeprefix("task="))
    with pytest.raises(UserError) as raised:
        run_on(*settings.split())
    assert str(raised.value).startswith(f"{task}: {said}")
    assert not list(tmp_path.rglob("*.json"))  # refused, so there is no record


def test_held_out_rows_of_one_class_are_refused(run_on: Run, tmp_path: Path) -> None:
    write(tmp_path, "train", [1] * 20)
    write(tmp_path, "validation", [0, 1])
    with pytest.raises(
        UserError, match=r"all 2 held-out rows have the label acceptable \(1\), so matthews_correlation"
    ):
        run_on("task=cola", "protocol=fair")


@pytest.mark.parametrize("limits", [(), ("limit_eval=1",)])
def test_accuracy_on_one_class_is_finite_and_no_collapse(
    run_on: Run, tmp_path: Path, limits: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "train", [1] * 8)
    write(tmp_path, "validation", [1] * 6)
    with caplog.at_level(logging.WARNING, "rosa_bench"):
        record = run_on("task=cola", "task.score=accuracy", *limits)
    assert record.has_collapsed is None
    assert 0 <= record.score <= 1
    assert all(map(math.isfinite, [*record.selected.values(), *record.scores.epochs[0].scores.values()]))
    assert [message for message in caplog.messages if "so the scores say little" in message]


def test_two_labels_are_enough(run_on: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", [0, 1] * 4)
    write(tmp_path, "validation", [0, 1])
    with caplog.at_level(logging.WARNING, "rosa_bench"):
        record = run_on("task=cola")
    assert math.isfinite(record.score)
    assert "say little" not in caplog.text
