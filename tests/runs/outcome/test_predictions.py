"""What a run stores about each reported row, and that an interruption does not change it."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec import UNSET
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.rows import Row
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.records.predictions import path, read
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.tasks.classification.rows import load_splits
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.prepared import OnBatches

MakeSetup = Callable[..., ResolvedRun]
TINY = (
    "model=tiny_roberta", "method=lora", "device=cpu", "epochs=3", "limit_train=40", "limit_eval=24", "batch_size=8",
    "lr=3e-3", "save_model=true", "checkpoint_s=0",
)  # fmt: skip
PROTOCOLS = pytest.mark.parametrize("protocol", ["paper", "fair"])


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path) -> MakeSetup:
    """``make_setup("place", "protocol=fair")``: a tiny run on GLUE-like rows, with its results in that folder."""
    write_rows(tmp_path / "data/glue")

    def make(place: str, *overrides: str) -> ResolvedRun:
        where = [f"{key}_dir='{tmp_path / name}'" for key, name in
                 (("results", f"{place}/results"), ("output", f"{place}/outputs"), ("data", "data"))]  # fmt: skip
        return resolve(compose("task=cola", *TINY, *overrides, *where), {})

    return make


def write_rows(folder: Path) -> None:
    """Write rows of very different lengths. Evaluation reads them in another order than that of the file."""
    draw = random.Random(0)
    for task, texts in (("cola", ["sentence"]), ("stsb", ["sentence1", "sentence2"])):
        (folder / task).mkdir(parents=True)
        for split in ("train", "validation"):
            rows = [
                {**{text: " ".join(draw.choices("abcdef", k=draw.randint(1, 20))) for text in texts},
                 "label": draw.randint(0, 1) if task == "cola" else draw.randint(0, 25) / 5}
                for _ in range(60)
            ]  # fmt: skip
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def dev_rows(resolved: ResolvedRun) -> list[Row]:
    config = resolved.config
    assert isinstance(config.task, TextTask)
    return load_splits(config.task, resolved.data_dir, limit_eval=config.limit_eval).validation


def outputs(folder: Path, rows: list[Row]) -> torch.Tensor:
    """The saved model's output for each row, one at a time, by transformers alone: (rows, outputs)."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return torch.cat([model.eval()(**tokenizer(*row.texts, return_tensors="pt")).logits for row in rows])  # pyrefly: ignore[not-callable]


@PROTOCOLS
def test_the_stored_classes_are_the_selected_models_in_the_order_of_the_rows(
    make_setup: MakeSetup, protocol: str
) -> None:
    resolved = make_setup("here", f"protocol={protocol}")
    record = run(resolved)
    assert record.scores.predictions == path(resolved.record_path).name
    found, rows = read(path(resolved.record_path)), dev_rows(resolved)
    assert (found.run, found.epoch) == (record.id, record.selected.epoch)
    assert found.labels == [row.label for row in rows]
    expected = outputs(resolved.saved_model, rows)
    assert found.predictions == expected.argmax(-1).tolist()
    chance = expected.softmax(-1)[torch.arange(len(rows)), torch.tensor(found.labels)]
    assert found.percent is not UNSET
    assert torch.tensor(found.percent) == pytest.approx(100 * chance, abs=0.51)
    scores = load_metric("matthews").module.compute(predictions=found.predictions, references=found.labels)
    assert scores
    assert scores["matthews_correlation"] == record.score


@PROTOCOLS
def test_the_stored_values_of_a_regression_are_the_selected_models(make_setup: MakeSetup, protocol: str) -> None:
    resolved = make_setup("here", "task=stsb", f"protocol={protocol}")
    record = run(resolved)
    found, rows = read(path(resolved.record_path)), dev_rows(resolved)
    assert found.labels == [row.label for row in rows]
    assert found.predictions == pytest.approx(outputs(resolved.saved_model, rows).squeeze(-1).tolist(), rel=1e-4)
    assert found.percent is UNSET
    assert record.scores.predictions


@PROTOCOLS
def test_predictions_cost_no_evaluation(make_setup: MakeSetup, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], OnBatches.__call__
    monkeypatch.setattr(OnBatches, "__call__", lambda *given: calls.append(1) or real(*given))
    record = run(make_setup("here", f"protocol={protocol}"))
    at_the_end = {"paper": 0, "fair": 1 + (record.selected.epoch != record.last.epoch)}[protocol]
    assert len(calls) == 3 + at_the_end


def test_all_seeds_have_the_same_rows_and_other_data_have_others(make_setup: MakeSetup) -> None:
    def rows_of(*overrides: str) -> tuple[str, RunRecord]:
        resolved = make_setup("here", "protocol=fair", "epochs=1", *overrides)
        record = run(resolved)
        return read(path(resolved.record_path)).rows, record

    (first, one), (second, two) = rows_of("seed=0"), rows_of("seed=1")
    assert one.data.fingerprint != two.data.fingerprint  # the rows held out of train differ
    assert first == second
    assert rows_of("limit_eval=20")[0] != first


def interrupt() -> None:
    raise KeyboardInterrupt


@PROTOCOLS
@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.long), pytest.param(6, marks=pytest.mark.slow), 12])
def test_an_interrupted_run_stores_the_same_predictions(
    make_setup: MakeSetup, protocol: str, step: int, at_step: Callable
) -> None:
    how = (f"protocol={protocol}", "lr=1e-2", "save_model=false")
    alone, resumed = make_setup("alone", *how), make_setup("resumed", *how)
    run(alone)
    with pytest.raises(KeyboardInterrupt):
        run(resumed, [at_step(step, interrupt)])
    assert not path(resumed.record_path).exists()
    again = at_step(-1, interrupt)
    run(resumed, [again])
    assert again.steps[0] > 0
    assert path(resumed.record_path).read_bytes() == path(alone.record_path).read_bytes()


def test_a_repeated_run_keeps_the_earlier_predictions(make_setup: MakeSetup) -> None:
    resolved = make_setup("here", "protocol=paper")
    run(resolved)
    place = path(resolved.record_path)
    place.write_text("other")
    run(make_setup("here", "protocol=paper", "resume=never"))
    assert (resolved.results_dir / "runs/superseded" / f"{resolved.id}-1.predictions.jsonl").read_text() == "other"
    assert read(place).run == resolved.id


@pytest.mark.parametrize("task", ["restaurants", "synthetic"])
def test_tasks_without_labels_store_no_predictions(
    compose: Callable[..., RunConfig], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"restaurants": ["model=tiny_gpt2"], "synthetic": ["task.replicates=2"]}[task]
    limits = ("limit_train=8", "limit_eval=4", "epochs=1", "batch_size=4", "device=cpu", "protocol=paper")
    record = run(resolve(compose(f"task={task}", "method=ft", *sizes, *limits), {}))
    assert record.scores.predictions is UNSET
    assert not list(tmp_path.rglob("*.predictions.jsonl"))
