"""Rows that cannot be scored are refused before anything is loaded."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.resolve import resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.prepared import PreparedTask

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


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [((), "use rows with at least two different labels"), (("limit_train=20",), "use a larger limit_train")],
)
def test_held_out_rows_of_one_class_are_refused(
    run_on: Run, tmp_path: Path, limits: tuple[str, ...], remedy: str
) -> None:
    write(tmp_path, "train", [1] * 20)
    write(tmp_path, "validation", [0, 1])
    said = r"all 2 held-out rows have the label acceptable \(1\), so matthews_correlation is undefined"
    with pytest.raises(UserError, match=f"{said}; {remedy}$"):
        run_on("task=cola", "protocol=fair", *limits)


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


def test_a_task_is_prepared_from_its_own_rows_and_the_runs_settings(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, held-out and validation rows do not mix, and a seed decides the first two, their order and the head."""
    monkeypatch.chdir(tmp_path)
    names = ("train", "validation")
    texts = {name: [f"{name} {number}" for number in range(60)] for name in names}
    for name in names:
        lines = [f"{text},{'yes' if number % 2 else 'no'}" for number, text in enumerate(texts[name])]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]))

    def prepared(*overrides: str) -> PreparedTask:
        given = (f"data={tmp_path}", "protocol=fair", "limit_train=50", "limit_eval=24", "max_length=32", *overrides)
        resolved = resolve(compose("task=classify", *TINY, *given), {})
        return resolved.config.task.prepare(resolved.context)

    def read(problem: PreparedTask, batches: Any, *, epoch: int = 0) -> list[list[str]]:
        assert problem.tokenizer is not None
        inputs = [batch["input_ids"] for batch in batches.epoch(epoch)]
        return [problem.tokenizer.batch_decode(tokens, skip_special_tokens=True) for tokens in inputs]

    def parts(problem: PreparedTask) -> list[set[str]]:
        kinds = (problem.train, problem.select.batches, problem.report.batches)  # pyrefly: ignore[missing-attribute]
        return [{text for batch in read(problem, kind) for text in batch} for kind in kinds]

    problem, again, other = prepared("seed=0"), prepared("seed=0"), prepared("seed=1")
    train, held_out, validation = parts(problem)
    assert (len(train), len(held_out), len(validation)) == (45, 5, 24)
    assert len(train | held_out) == 50
    assert train | held_out <= set(texts["train"])
    assert validation <= set(texts["validation"])
    assert [len(batch) for batch in read(problem, problem.train)] == [4] * 11 + [1]
    assert [len(batch) for batch in read(problem, problem.report.batches)] == [16, 8]  # pyrefly: ignore[missing-attribute]

    assert parts(again) == [train, held_out, validation]
    assert parts(other)[:2] != [train, held_out]
    assert parts(other)[2] == validation
    assert read(again, again.train) == read(problem, problem.train) != read(problem, problem.train, epoch=1)
    for key, weight in problem.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[key]), key
    heads = [one.model.get_parameter("classifier.weight") for one in (problem, other)]
    assert not torch.equal(*heads)
    assert problem.drawn_head
    assert problem.model.config.id2label == {0: "no", 1: "yes"}
    assert isinstance(problem.reported, str)
    assert problem.reported == other.reported != prepared("limit_eval=23").reported
    assert "note" in problem.facts
    assert {batch["input_ids"].shape[1] for batch in prepared("pad_to_max=true").train.epoch()} == {32}
    grouped = prepared("group_by_length=true")
    assert parts(grouped) == [train, held_out, validation]
    assert read(grouped, grouped.train) != read(problem, problem.train)
    for mistake, message in (("max_length=2", "leaves no room for text"), ("task.score=bleu", "^task.score=bleu")):
        with pytest.raises(UserError, match=message):
            prepared(mistake)
