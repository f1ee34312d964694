import contextlib
import gc
import json
import math
import random
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import matthews_corrcoef
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batch, parts, to_device
from rosa_bench.data.rows import Row
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.size import UnsizedError
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.spec import Encoder
from rosa_bench.records.parts.conditions import Git
from rosa_bench.records.provenance import versions
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_record, load_records
from rosa_bench.runs.planning.catalogue import size
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run, say_end
from rosa_bench.runs.status import status_of
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.rows import load_rows, load_splits
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.evaluation import score
from rosa_bench.training.state import TrainingFailedError

MakeSetup = Callable[..., ResolvedRun]

METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
TINY = (
    "model=tiny_roberta", "device=cpu", "epochs=2", "limit_train=40", "limit_eval=24", "batch_size=8", "lr=3e-3",
)  # fmt: skip
BY_DEFAULT = ("task=grammar", "method=ft")


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")``: a tiny run with these overrides, resolved in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*BY_DEFAULT, *TINY, *overrides), {"epochs": [2, 10]})


PROJECTED = ("galore", "fira", "apollo", "flora")  # everything trains; the first projector comes before the first step
CHANGING = {
    "rosa": ["method.resample_every=1"],
    "switch_lora": ["method.resample_every=2", "method.decay=0"],
    **{name: ["method.blocks=1", "method.every=3"] for name in ("blockwise", "lisa", "badam")},
}


def every_epoch(method: str) -> list[str]:
    """Settings that make a method change its parameters within these short runs, if it ever does."""
    return CHANGING.get(method, [])


def write_rows(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# A run and its record


def test_the_saved_size_counts_what_training_can_change(make_setup: MakeSetup) -> None:
    full = run(make_setup("method=ft", "epochs=1")).parameters
    lora = run(make_setup("method=lora", "protocol=fair", "epochs=1")).parameters
    rosa = run(make_setup("method=rosa", "protocol=fair", "method.resample_every=1", "epochs=1")).parameters
    assert full.total and lora.trainable and rosa.trainable
    assert full.saved_bytes == 4 * full.total  # float32
    assert lora.saved_bytes == 4 * lora.trainable
    hidden, layers, weights = 32, 2, 4
    assert rosa.saved_bytes == 4 * (rosa.trainable + layers * weights * hidden**2)  # residuals change at each draw


# Under `paper` one method of each kind; the matrix has the others.
KINDS = ("ft", "lora", "rosa", "prompt_tuning", "houlsby", "blockwise", "galore")
RUNS = [
    *((method, "fair") for method in METHODS),
    *(pytest.param(method, "paper", marks=[] if method in KINDS else pytest.mark.long) for method in METHODS),
]


@pytest.mark.parametrize(("method", "protocol"), RUNS)
def test_every_method_runs_under_every_protocol(make_setup: MakeSetup, method: str, protocol: str) -> None:
    before = datetime.now(UTC)
    resolved = make_setup(f"method={method}", f"protocol={protocol}", *every_epoch(method))
    try:
        size(resolved.config, {})
    except UnsizedError:
        pass
    except UserError as refusal:
        pytest.skip(f"not for encoders: {refusal}")
    if not resolved.config.method.trains:
        pytest.skip("runs without training are in tests/methods/test_laser.py")
    record = run(resolved)

    assert load_records(resolved.results_dir) == [record]
    assert (record.status, record.error, record.id) == ("completed", None, resolved.id)
    assert record.deviations == {"epochs": [2, 10]}
    assert record.settings.method.name == method
    assert record.settings.protocol.name == protocol
    assert record.versions == versions(resolved.config.method.libraries)

    held_out = 4 if protocol == "fair" else 0  # 10 % of 40
    assert record.data.rows.by_split == {"train": 40 - held_out, "held_out": held_out, "validation": 24}
    assert record.data.official_rows == {"train": 4000, "validation": 1000}
    assert record.data.subset is True
    assert record.data.synthetic is True
    assert record.data.source.startswith("embedded ")
    assert len(record.data.fingerprint) == 64

    total, trained = record.parameters.total, record.parameters.trainable
    assert trained and total
    assert (trained <= total) == (method != "diff_pruning")  # which trains a difference and a gate for every weight
    assert (trained == total) == (method in {"ft", *PROJECTED})

    draws = {  # in 2 epochs of 5 steps
        "rosa": 1, "rso": 8, "relora": 8, "switch_lora": 72, **dict.fromkeys(("blockwise", "lisa", "badam"), 3),
        **dict.fromkeys(PROJECTED, 1),
    }  # fmt: skip
    assert record.resamples == draws.get(method, 0)
    changes = any(resolved.config.method.is_due(step, RunLength(5, 2)) for step in range(10))
    assert set(record.time_s) == {"load", "train", "evaluate", "total", *(["resample"] if changes else [])}
    assert all(seconds > 0 for seconds in record.time_s.values())
    assert record.time_s["total"] == pytest.approx(sum(s for name, s in record.time_s.items() if name != "total"))
    assert set(record.memory_bytes) == set(record.time_s) - {"total"}
    assert all(peak > 0 for peak in record.memory_bytes.values())
    assert record.model["source"] == "random"
    assert record.model["config"]["hidden_size"] == 32
    assert record.device.type == "cpu"
    assert record.device.precision == "float32"
    assert record.versions["torch"] == version("torch")
    assert isinstance(record.git, Git)
    started = datetime.fromisoformat(record.started_at)
    assert timedelta(seconds=-1) <= started - before <= timedelta(minutes=5)

    scores = to_values(record)["scores"]
    assert scores["reported"] == "matthews_correlation"
    assert "scikit-learn" in scores["signature"]
    assert [set(epoch) for epoch in scores["epochs"]] == [{"train_loss", "scores", "time_s"}] * 2
    assert scores["selected_on"] == ("held_out" if held_out else "validation")
    by_epoch = [epoch["scores"]["matthews_correlation"] for epoch in scores["epochs"]]
    length = RunLength(5, 2)
    allowed = [n for n in (0, 1) if resolved.config.method.is_selectable(5 * (n + 1), length)]
    assert scores["selection_score"] == max(by_epoch[n] for n in allowed)
    assert scores["selected"]["epoch"] == by_epoch.index(scores["selection_score"], allowed[0]) + 1  # first of equals
    assert scores["last"]["epoch"] == 2
    for shown in (scores["selected"], scores["last"]):
        assert set(shown) == {"epoch", "matthews_correlation", "accuracy", "loss", "spread"}
        assert math.isfinite(shown["loss"])
    if not held_out:
        assert scores["last"] == {"epoch": 2, **scores["epochs"][-1]["scores"]}


def write_stsb(folder: Path) -> Path:
    """Write pairs whose similarity is their number of equal words."""
    rng = random.Random(0)
    for split, count in (("train", 40), ("validation", 20)):
        rows = []
        for _ in range(count):
            first = [rng.choice("abcde") for _ in range(5)]
            second = [letter if rng.random() < 0.5 else rng.choice("abcde") for letter in first]
            label = sum(map(str.__eq__, first, second))
            rows.append({"sentence1": " ".join(first), "sentence2": " ".join(second), "label": float(label)})
        write_rows(folder / "glue/stsb", split, rows)
    return folder


def references(resolved: ResolvedRun) -> list[Row]:
    """Return the dev rows of a run, loaded independently."""
    config = resolved.config
    assert isinstance(config.task, TextTask)
    return load_splits(config.task, resolved.data_dir, limit_eval=config.limit_eval).validation


def outputs(folder: Path, rows: list[Row]) -> torch.Tensor:
    """Return a saved model's output for each row, one at a time, using transformers alone: (rows, outputs)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(*row.texts, return_tensors="pt")).logits for row in rows])  # pyrefly: ignore[not-callable]


@pytest.mark.parametrize(
    ("method", "protocol"),
    [
        ("rosa", "fair"),
        ("lora", "paper"),
        ("ia3", "fair"),
        ("ft", "paper"),
        ("lora_plus", "fair"),
        ("blockwise", "fair"),
    ],
)
def test_the_saved_model_is_the_one_whose_scores_were_recorded(
    make_setup: MakeSetup, method: str, protocol: str
) -> None:
    resolved = make_setup(
        f"method={method}", f"protocol={protocol}", "save_model=true", "epochs=3", "lr=2e-2", *every_epoch(method)
    )
    record = run(resolved)
    rows = references(resolved)
    found = outputs(resolved.output_dir / "model", rows)
    truth = torch.tensor([row.label for row in rows])
    selected = record.selected
    assert selected["epoch"] < record.last["epoch"]  # so the saved weights are not the last ones
    assert functional.cross_entropy(found, truth).item() == pytest.approx(selected["loss"], abs=1e-5)
    assert matthews_corrcoef(truth, found.argmax(-1)) == pytest.approx(selected["matthews_correlation"])
    assert not list((resolved.output_dir / "model").glob("*.bin"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT uses an old name
@pytest.mark.parametrize("protocol", ["fair", "paper"])
@pytest.mark.parametrize("model", ["tiny_roberta", "tiny_bert"])
def test_the_saved_prompt_is_the_one_whose_scores_were_recorded(
    make_setup: MakeSetup, model: str, protocol: str
) -> None:
    from peft import PeftModel

    resolved = make_setup(
        f"model={model}", "method=prompt_tuning", f"protocol={protocol}", "save_model=true", "epochs=3", "lr=3e-1"
    )
    record = run(resolved)
    base = resolved.config.task.prepare(resolved.context).model  # as it was before training
    loaded = PeftModel.from_pretrained(base, str(resolved.saved_model)).eval()
    tokenizer = AutoTokenizer.from_pretrained(resolved.saved_model)
    rows = references(resolved)
    with torch.inference_mode():
        found = torch.cat([loaded(**tokenizer(*row.texts, return_tensors="pt")).logits for row in rows])  # pyrefly: ignore[not-callable]
    truth, selected = torch.tensor([row.label for row in rows]), record.selected
    assert functional.cross_entropy(found, truth).item() == pytest.approx(selected["loss"], abs=1e-5)
    assert matthews_corrcoef(truth, found.argmax(-1)) == pytest.approx(selected["matthews_correlation"])
    assert {path.suffix for path in resolved.saved_model.iterdir()} <= {".json", ".safetensors", ".md"}


def test_a_regression_is_scored_by_pearson_correlation(make_setup: MakeSetup, tmp_path: Path) -> None:
    wide = "+model.random.initializer_range=0.3"  # at the usual 0.02, all outputs are nearly equal
    resolved = make_setup("task=stsb", f"data_dir={write_stsb(tmp_path / 'data')}", "save_model=true", "epochs=4", wide)
    record = run(resolved)
    rows = references(resolved)
    found = outputs(resolved.output_dir / "model", rows)
    truth = torch.tensor([row.label for row in rows])
    selected = record.selected
    assert found.shape == (20, 1)
    assert record.scores.reported == "pearson"
    assert pearsonr(found.squeeze(-1).double(), truth).statistic == pytest.approx(selected["pearson"], abs=1e-4)
    assert functional.mse_loss(found.squeeze(-1), truth).item() == pytest.approx(selected["loss"], rel=1e-4)
    losses = [epoch.train_loss for epoch in record.scores.epochs]
    assert losses[-1] < losses[0]
    assert record.data.rows.by_split == {"train": 40, "held_out": 0, "validation": 20}
    assert (record.data.official, record.data.subset) == (False, False)  # custom rows, all of them


@pytest.mark.parametrize("method", ["rosa", "lora"])
def test_equal_seeds_give_equal_bits_and_different_seeds_do_not(make_setup: MakeSetup, method: str) -> None:
    def weights_and_scores(place: str, *overrides: str) -> tuple[bytes, dict[str, Any]]:
        resolved = make_setup(
            f"method={method}", "protocol=fair", "save_model=true", f"output_dir={place}", f"results_dir={place}",
            *every_epoch(method), *overrides,
        )  # fmt: skip
        record = run(resolved)
        scores = to_values(record)["scores"]
        epochs = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
        return (resolved.output_dir / "model/model.safetensors").read_bytes(), {**scores, "epochs": epochs}

    first, again, other = (weights_and_scores("a"), weights_and_scores("b"), weights_and_scores("c", "seed=1"))
    assert first == again
    assert first[0] != other[0]
    assert first[1]["selected"] != other[1]["selected"]


def test_dev_labels_do_not_affect_selection_on_held_out_rows(make_setup: MakeSetup, tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [{"sentence": "".join(rng.choices("abcdef ", k=12)), "label": rng.randrange(2)} for _ in range(60)]
    for folder, flip in (("as they are", 0), ("flipped", 1)):
        write_rows(tmp_path / folder / "glue/cola", "train", rows[:40])
        flipped = [{**row, "label": row["label"] ^ flip} for row in rows[40:]]
        write_rows(tmp_path / folder / "glue/cola", "validation", flipped)

    def scores(folder: str, protocol: str) -> dict[str, Any]:
        settings = ("task=cola", f"protocol={protocol}", "epochs=4", "task.score=accuracy")
        return to_values(run(make_setup(*settings, f"data_dir='{tmp_path / folder}'")))["scores"]

    honest, flipped = (scores(folder, "fair") for folder in ("as they are", "flipped"))
    assert honest["selected"]["epoch"] == flipped["selected"]["epoch"]
    assert honest["selection_score"] == flipped["selection_score"]
    assert [epoch["scores"] for epoch in honest["epochs"]] == [epoch["scores"] for epoch in flipped["epochs"]]
    for shown in ("selected", "last"):  # scored on dev, whose labels are flipped
        assert honest[shown]["accuracy"] == pytest.approx(1 - flipped[shown]["accuracy"])
    on_dev = [scores(folder, "paper")["selection_score"] for folder in ("as they are", "flipped")]
    assert on_dev[0] != on_dev[1]


def test_a_collapsed_run_logs_a_warning(make_setup: MakeSetup, caplog: pytest.LogCaptureFixture) -> None:
    resolved = make_setup()
    record = run(resolved)
    for spread in (0.0, 0.9):
        caplog.clear()
        record.last["spread"] = spread
        say_end(resolved, record)
        assert ("the same answer" in caplog.text) is (spread == 0)


def test_attention_does_not_use_cudnn_kernels(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    attend, cudnn = functional.scaled_dot_product_attention, []

    def noting(*args: Any, **options: Any) -> torch.Tensor:
        cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noting)
    run(make_setup())
    assert cudnn
    assert not any(cudnn)


# Interrupted and failed runs


def test_a_non_finite_loss_fails_the_run_and_is_recorded(make_setup: MakeSetup) -> None:
    resolved = make_setup("lr=1e30")
    with pytest.raises(TrainingFailedError, match=r"training loss is (nan|inf) at step \d+"):
        run(resolved)
    [record] = load_records(resolved.results_dir)
    assert record.status == "failed"
    assert record.error is not None
    assert "at step" in record.error
    assert record.time_s["total"] > 0


def test_a_run_out_of_memory_is_interrupted_and_can_continue(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup("epochs=2", "checkpoint_s=0")
    with monkeypatch.context() as patch:
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total")
        interrupted_after_one_epoch(patch, error)
        with pytest.raises(UserError, match=rf"{resolved.id}: CUDA out of memory; .*accumulate"):
            run(resolved)
    [record] = load_records(resolved.results_dir)
    assert (record.status, record.error) == ("interrupted", "CUDA out of memory")
    assert status_of(resolved).kind == "unfinished"
    assert run(resolved).status == "completed"


def interrupted_after_one_epoch(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException] = KeyboardInterrupt
) -> None:
    calls = iter([score])

    def interrupt(*arguments: Any, **options: Any) -> dict[str, float]:
        for allowed in calls:
            return allowed(*arguments, **options)
        raise error

    monkeypatch.setattr("rosa_bench.tasks.classification.prepare.score", interrupt)


def test_ctrl_c_records_the_epochs_so_far(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_after_one_epoch(monkeypatch)
    resolved = make_setup("save_model=true")
    with pytest.raises(KeyboardInterrupt):
        run(resolved)
    [record] = load_records(resolved.results_dir)
    assert record.status == "interrupted"
    assert record.error
    assert len(record.scores.epochs) == 1
    assert record.scores.selected is None
    assert not resolved.output_dir.exists()  # an unfinished run saves no model


def test_an_interrupted_run_starts_again_and_replaces_its_record(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup()
    with monkeypatch.context() as patched:
        interrupted_after_one_epoch(patched)
        with pytest.raises(KeyboardInterrupt):
            run(resolved)
    run(resolved)
    [record] = load_records(resolved.results_dir)
    assert record.status == "completed"
    [aside] = (resolved.results_dir / "runs/superseded").iterdir()
    assert load_record(aside).status == "interrupted"


def test_an_interrupted_rerun_does_not_replace_a_completed_record(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup()
    completed = run(resolved)
    interrupted_after_one_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(resolved)
    assert load_records(resolved.results_dir) == [completed]
    [aside] = (resolved.results_dir / "runs/superseded").iterdir()
    assert load_record(aside).status == "interrupted"


def test_the_model_of_a_run_is_freed_before_the_next_run(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref] = []
    left: list[int] = []
    emptied: list[int] = []

    prepare = TextTask.prepare

    def watched(task: TextTask, context: Context) -> PreparedTask:
        left.append(sum(model() is not None for model in models))
        problem = prepare(task, context)
        problem.model.cycle = [problem.model]  # pyrefly: ignore[bad-argument-type] - a cycle, which reference counts never free
        models.append(weakref.ref(problem.model))
        return problem

    monkeypatch.setattr(TextTask, "prepare", watched)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(len(models)))
    gc.disable()  # so that nothing is collected by chance
    try:
        run(make_setup())
        with contextlib.suppress(TrainingFailedError):
            run(make_setup("lr=1e30"))
        run(make_setup("seed=1"))
    finally:
        gc.enable()
    assert left == [0, 0, 0]
    assert emptied == [0, 1, 2]  # before each model is created


@pytest.mark.parametrize(
    "override", ["max_length=513", "task.metric=unheard_of", "task.metric=base", "task.score=unheard_of"]
)
def test_a_mistake_found_after_loading_is_reported_without_a_record(make_setup: MakeSetup, override: str) -> None:
    resolved = make_setup(override)
    with pytest.raises(UserError, match=override):
        run(resolved)
    assert load_records(resolved.results_dir) == []


# Effects of settings


def test_the_seed_determines_the_initial_weights(make_setup: MakeSetup) -> None:
    resolved_runs = [make_setup(f"seed={seed}", "epochs=1", "lr=1e-30", "save_model=true") for seed in (0, 1)]
    drawn = []
    for seed, resolved in enumerate(resolved_runs):
        run(resolved)
        model = AutoModelForSequenceClassification.from_pretrained(resolved.output_dir / "model")
        torch.manual_seed(seed)
        assert isinstance(resolved.config.model, Encoder)
        fresh = load_encoder(resolved.config.model, resolved.source, num_outputs=2).model.state_dict()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, fresh[name], atol=1e-20, rtol=0)  # a step is about as large as lr
        drawn.append(fresh)
    assert not torch.equal(drawn[0]["classifier.dense.weight"], drawn[1]["classifier.dense.weight"])


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []

    def watched(batch: Batch, count: int) -> list[Batch]:
        sizes.append([len(part["labels"]) for part in parts(batch, count)])
        return parts(batch, count)

    monkeypatch.setattr("rosa_bench.training.loop.parts", watched)
    no_dropout = "+model.random.hidden_dropout_prob=0"
    uneven = ("batch_size=10", "limit_train=35")
    whole, split = (run(make_setup(*uneven, no_dropout, f"accumulate={count}")) for count in (1, 3))
    assert sizes == [[4, 3, 3], [4, 3, 3], [4, 3, 3], [2, 2, 1]] * 2  # in the second run only
    assert losses(split) == pytest.approx(losses(whole), rel=1e-4)
    assert split.selected["loss"] == pytest.approx(whole.selected["loss"], rel=1e-4)


def losses(record: RunRecord) -> list[float]:
    return [epoch.train_loss for epoch in record.scores.epochs]


@pytest.mark.parametrize("method", ["ft", "rosa"])
def test_padding_does_not_change_losses_or_scores(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    widths: list[int] = []

    def watched(batch: Batch, device: torch.device) -> Batch:
        widths.append(batch["input_ids"].shape[1])
        return to_device(batch, device)

    for module in ("training.loop", "training.evaluation"):
        monkeypatch.setattr(f"rosa_bench.{module}.to_device", watched)
    # Dropout would draw more random numbers for longer rows.
    no_dropout = "+model.random.hidden_dropout_prob=0"
    settings = (f"method={method}", "max_length=100", "protocol=fair", no_dropout, *every_epoch(method))
    plain = run(make_setup(*settings))
    assert len(set(widths)) > 1
    widths.clear()
    padded = run(make_setup(*settings, "pad_to_max=true"))
    assert set(widths) == {100}
    assert padded.id != plain.id
    assert losses(padded) == pytest.approx(losses(plain), rel=1e-4)
    assert padded.selection_score == plain.selection_score
    for which in ("selected", "last"):
        assert getattr(padded, which) == pytest.approx(getattr(plain, which), rel=1e-4)


def test_bfloat16_changes_losses_only_slightly(make_setup: MakeSetup) -> None:
    exact, rounded = (run(make_setup("limit_eval=8", f"precision={name}")) for name in ("float32", "bfloat16"))
    assert rounded.device.precision == "bfloat16"
    assert losses(rounded) != losses(exact)
    assert losses(rounded) == pytest.approx(losses(exact), abs=0.05)


def test_evaluation_rows_are_a_subset_of_the_tasks(make_setup: MakeSetup) -> None:
    resolved = make_setup()
    assert isinstance(resolved.config.task, TextTask)
    everything = load_rows(resolved.config.task, "validation", None)
    assert len(everything) == 1000
    assert set(references(resolved)) < set(everything)
