"""Whole runs of a generation task: the record, the generated texts, and the model that wrote them."""

import copy
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import UNSET
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rosa_bench.cli.commands.score import show_scores
from rosa_bench.config.schema import RunConfig
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.records import generations
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records, runs_folder
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation import prepare as generation
from rosa_bench.tasks.generation.prompts import load_prompts
from rosa_bench.tasks.generation.task import GenerationTask
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

MakeSetup = Callable[..., ResolvedRun]

TINY = (
    "task=restaurants", "model=tiny_gpt2", "device=cpu", "epochs=2", "limit_train=10", "limit_eval=4", "batch_size=4",
    "lr=3e-3", "optimizer.warmup_steps=null", "task.decoding.beams=2", "task.decoding.max_new_tokens=10",
)  # fmt: skip
FIGURES = {*load_metric("generation").scores, "perplexity", "loss"}
# Training that diverges, so that the first epoch is the best.
WORSE = ("epochs=3", "lr=0.3", "optimizer.warmup_steps=8", "save_model=true")  # nine steps


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")``: a tiny run with these overrides, resolved in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


def every_epoch(method: str) -> list[str]:
    return ["method.resample_every=1"] if method == "rosa" else []


def written(resolved: ResolvedRun, record: RunRecord) -> list[generations.Generation]:
    """Return the generated texts of a run."""
    return generations.read(generations.path(resolved.record_path))


def outcome(resolved: ResolvedRun, record: RunRecord) -> tuple[dict[str, Any], bytes]:
    """Return the results of a run without its times."""
    scores = to_values(record)["scores"]
    scores["epochs"] = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
    return scores, generations.path(resolved.record_path).read_bytes()


# A run and its record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "protocol"), [("ft", "paper"), ("lora", "fair"), ("lora", "paper"), ("rosa", "fair"), ("rosa", "paper")]
)
def test_methods_run_under_every_protocol(make_setup: MakeSetup, method: str, protocol: str) -> None:
    resolved = make_setup(f"method={method}", f"protocol={protocol}", *every_epoch(method))
    record = run(resolved)

    assert load_records(resolved.results_dir) == [record]
    assert (record.status, record.error, record.id) == ("completed", None, resolved.id)
    assert set(record.data.rows.by_split) == {"train", "held_out", "validation", "test"}
    assert (record.data.rows.train, record.data.rows.held_out) == (10, 0)  # because a validation split selects
    assert record.data.prompts == {"validation": 4, "test": 4}
    assert (record.data.subset, record.data.synthetic) == (True, True)
    phases = {"load", "train", "evaluate", *(["resample"] if method == "rosa" else [])}
    assert set(record.time_s) == {*phases, "total"}
    assert set(record.memory_bytes) == phases
    assert record.parameters.trainable
    assert record.parameters.total == 50_208

    scores = to_values(record)["scores"]
    assert (scores["reported"], scores["lower_is_better"]) == ("bleu", False)
    assert scores["selected_by"] == {"name": "perplexity", "lower_is_better": True}
    assert scores["selected_on"] == "validation_split"
    assert scores["signature"] == load_metric("generation").signature
    assert [set(epoch["scores"]) for epoch in scores["epochs"]] == [{"perplexity", "loss"}] * 2
    by_epoch = [epoch["scores"]["perplexity"] for epoch in scores["epochs"]]
    assert scores["selection_score"] == min(by_epoch)
    assert scores["selected"]["epoch"] == by_epoch.index(min(by_epoch)) + 1
    assert scores["last"]["epoch"] == 2
    for shown in (scores["selected"], scores["last"]):
        assert set(shown) == {"epoch", *FIGURES}
        assert all(math.isfinite(value) for value in shown.values())
    assert scores["selected"]["perplexity"] != scores["selection_score"]  # scored on other rows


def test_texts_next_to_the_record_have_its_scores(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = make_setup("method=ft")
    assert isinstance(resolved.config.task, GenerationTask)
    prompts = load_prompts(resolved.config.task, None, limit_eval=4).test
    halves = [prompt.references[-1][: len(prompt.references[-1]) // 2].upper() for prompt in prompts]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: halves)  # the tiny model writes nothing useful
    record = run(resolved)
    assert record.scores.generations == f"{resolved.id}.generations.jsonl"
    assert [(row.prompt, list(row.references), row.output) for row in written(resolved, record)] == [
        (prompt.text, prompt.references, half) for prompt, half in zip(prompts, halves, strict=True)
    ]
    text = io.StringIO()
    show_scores([generations.path(resolved.record_path)], Console(file=text, width=300))
    [line] = [line for line in text.getvalue().splitlines() if resolved.id in line]
    selected = record.selected
    assert selected["bleu"] > selected["bleu_cased"] and selected["nist"] > 0
    shown = [f"{100 * selected['bleu']:.2f}", f"{100 * selected['bleu_cased']:.2f}", f"{selected['nist']:.2f}"]
    assert line.split()[-3:] == shown


@pytest.mark.slow
def test_texts_of_an_earlier_run_are_kept_as_superseded(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = make_setup()
    first = run(resolved)
    before = generations.path(resolved.record_path).read_bytes()
    monkeypatch.setattr(generation, "generate", lambda *arguments, **_: ["another text"] * len(arguments[2]))
    again = run(make_setup("resume=never"))
    assert {row.output for row in written(resolved, again)} == {"another text"}
    assert [record.id for record in load_records(resolved.results_dir)] == [first.id]
    aside = runs_folder(resolved.results_dir) / "superseded"
    assert sorted(path.name for path in aside.iterdir()) == [
        f"{resolved.id}-1.generations.jsonl",
        f"{resolved.id}-1.json",
    ]
    assert (aside / f"{resolved.id}-1.generations.jsonl").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_rerun_keeps_the_texts_of_the_completed_run(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = make_setup()
    completed = run(resolved)
    before = outcome(resolved, completed)

    def interrupt(*_arguments: Any, **_options: Any) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(make_setup("resume=never"))
    [record] = load_records(resolved.results_dir)
    assert outcome(resolved, record) == before


def test_the_score_is_logged_at_the_end(make_setup: MakeSetup, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        record = run(make_setup())
    [line] = [message for message in caplog.messages if message.startswith("bleu ")]
    assert line.startswith(f"bleu {100 * record.selected['bleu']:.2f} at epoch ")
    assert not any("warm-up" in message for message in caplog.messages)


# Training and selection


@pytest.mark.slow
@pytest.mark.parametrize(("method", "protocol", "lr"), [("ft", "fair", "1e-2"), ("rosa", "paper", "3e-2")])
def test_training_lowers_loss_and_perplexity(make_setup: MakeSetup, method: str, protocol: str, lr: str) -> None:
    """An untrained model finds all 256 bytes equally likely, which gives a perplexity of about 261."""
    record = run(make_setup(f"method={method}", f"protocol={protocol}", f"lr={lr}", "epochs=6", *every_epoch(method)))
    losses = [epoch.train_loss for epoch in record.scores.epochs]
    assert losses == sorted(losses, reverse=True)
    assert record.scores.epochs[-1].scores["perplexity"] < 60
    assert record.selected["perplexity"] < 60


class Watched(Observer):
    """Keeps the merged weights at the end of training, and the weights of each model that generates, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.at_the_end: dict[str, Tensor] = {}
        self.wrote: list[dict[str, Tensor]] = []
        real_generate = generation.generate

        def generate(model: nn.Module, *arguments: Any, **options: Any) -> list[str]:
            self.wrote.append(weights(model))
            return real_generate(model, *arguments, **options)  # pyrefly: ignore[bad-argument-type]

        monkeypatch.setattr(generation, "generate", generate)

    def on_train_end(self, training: Training) -> None:
        merged = copy.deepcopy(training.model)
        training.method.merge(merged)
        self.at_the_end = weights(merged)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "protocol"), [("ft", "fair"), ("lora", "fair"), ("rosa", "paper")])
def test_the_selected_weights_are_saved_and_both_selected_and_last_are_scored(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, method: str, protocol: str
) -> None:
    watched = Watched(monkeypatch)
    resolved = make_setup(
        f"method={method}", f"protocol={protocol}", "task.decoding.no_repeat_ngram=0", *WORSE, *every_epoch(method)
    )
    record = run(resolved, [watched])
    scores = to_values(record)["scores"]
    assert scores["selected"]["epoch"] < scores["last"]["epoch"] == 3
    last, selected = watched.wrote
    assert equal(last, watched.at_the_end)
    assert not equal(selected, watched.at_the_end)

    # The saved model, run by transformers alone, writes the same texts.
    model: Any = AutoModelForCausalLM.from_pretrained(resolved.saved_model).eval()
    assert equal(weights(model), selected)
    tokenizer = AutoTokenizer.from_pretrained(resolved.saved_model)
    how = GenerationConfig(
        num_beams=2, max_new_tokens=10, early_stopping=True, do_sample=False, eos_token_id=2, pad_token_id=1
    )
    rows = written(resolved, record)
    for row in rows:
        ids = torch.tensor([[0, *tokenizer(f"{row.prompt} ||", add_special_tokens=False)["input_ids"]]])  # pyrefly: ignore[not-callable]
        [tokens] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
        assert tokenizer.decode(tokens[ids.shape[1] :], skip_special_tokens=True).strip() == row.output  # pyrefly: ignore[missing-attribute]

    # Each model has the recorded loss.
    for shown, kept in (("selected", selected), ("last", last)):
        model.load_state_dict(kept)
        sequences = [(row.prompt, reference) for row in rows for reference in row.references]
        assert scores[shown]["loss"] == pytest.approx(mean_loss(model, tokenizer, sequences), rel=1e-5)
    assert scores["last"]["loss"] > scores["selected"]["loss"]


def mean_loss(model: Any, tokenizer: Any, sequences: list[tuple[str, str]]) -> float:
    """Return the mean negative log-likelihood of all reference and end tokens, one sequence at a time."""
    found = []
    for prompt, reference in sequences:
        before = [0, *tokenizer(f"{prompt} ||", add_special_tokens=False)["input_ids"]]
        after = [*tokenizer(f" {reference}", add_special_tokens=False)["input_ids"], 2]
        with torch.inference_mode():
            likely = model(torch.tensor([[*before, *after]])).logits[0].double().log_softmax(-1)
        found += (-likely[range(len(before) - 1, len(before) + len(after) - 1), after]).tolist()
    return math.fsum(found) / len(found)


def test_a_best_last_epoch_generates_only_once(make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    record = run(make_setup("method=ft", "protocol=fair"), [watched])
    assert record.scores.selected == record.scores.last
    assert len(watched.wrote) == 1
    assert equal(watched.wrote[0], watched.at_the_end)


def test_test_rows_do_not_affect_the_selection(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = generation.load_prompts

    def without_sense(*arguments: Any, **options: Any) -> Any:
        splits = real(*arguments, **options)
        return splits._replace(test=[one._replace(references=["zq " * 9]) for one in splits.test])

    def scores(place: str) -> dict[str, Any]:
        resolved = make_setup(*WORSE, "method=ft", f"results_dir='{tmp_path / place}'")
        return {**to_values(run(resolved))["scores"], "generations": None}

    honest = scores("honest")
    monkeypatch.setattr(generation, "load_prompts", without_sense)
    other = scores("other")
    assert honest["selected"]["epoch"] == other["selected"]["epoch"]
    assert honest["selection_score"] == other["selection_score"]
    assert [epoch["scores"] for epoch in honest["epochs"]] == [epoch["scores"] for epoch in other["epochs"]]
    assert honest["selected"]["perplexity"] != other["selected"]["perplexity"]


# Interrupted runs


@pytest.mark.slow
@pytest.mark.parametrize(("where", "how"), [
    ("in an epoch", ("method=rosa", "protocol=paper", "method.resample_every=2", "method.resample_unit=steps")),
    ("while it writes", ("method=ft", "protocol=fair")),
])  # fmt: skip
def test_an_interrupted_run_ends_like_an_uninterrupted_one(  # noqa: PLR0917 - fixtures
    make_setup: MakeSetup,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    at_step: Any,
    where: str,
    how: tuple[str, ...],
) -> None:
    def setup_at(place: str, *overrides: str) -> ResolvedRun:
        folders = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        return make_setup(*WORSE, *how, *overrides, *folders)

    alone = setup_at("alone")
    expected = outcome(alone, run(alone))
    assert expected[0]["selected"]["epoch"] < 3  # so its weights must be restored as well

    resolved = setup_at("broken", "checkpoint_s=0")

    def interrupt(*_arguments: Any, **_options: Any) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if where == "while it writes":
            patched.setattr(generation, "generate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(resolved, [at_step(5 if where == "in an epoch" else -1, interrupt)])
    [record] = load_records(resolved.results_dir)
    assert record.status == "interrupted"
    assert record.scores.generations is UNSET

    made = at_step(-1, interrupt)
    assert outcome(resolved, run(resolved, [made])) == expected
    assert made.steps == (list(range(5, 9)) if where == "in an epoch" else [])
    assert (resolved.saved_model / "model.safetensors").read_bytes() == (
        alone.saved_model / "model.safetensors"
    ).read_bytes()


def test_an_adapter_that_could_not_be_loaded_is_refused_before_the_run(make_setup: MakeSetup) -> None:
    beft = ("method=peft", "method.peft_type=BEFT")
    resolved = make_setup(*beft, "save_model=true")
    with pytest.raises(UserError, match=r"^save_model=true: PEFT could not load the adapter onto this model"):
        run(resolved)
    assert not resolved.record_path.exists()
    assert run(make_setup(*beft)).status == "completed"
