"""Language modelling, whole: scores against independent computations, and runs."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, masking_utils
from transformers.masking_utils import AttentionMaskInterface

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.generators.markov import MarkovSource
from rosa_bench.models import attention
from rosa_bench.models.loading.pretrained import Loaded
from rosa_bench.records.record import to_values
from rosa_bench.records.store import load_records
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.language_modelling import new_language
from rosa_bench.tasks.language_modelling.documents import load_documents
from rosa_bench.tasks.language_modelling.prepare import HeldOutLoss
from rosa_bench.tasks.language_modelling.task import NewLanguageTask
from rosa_bench.tasks.prepared import PreparedTask

MakeSetup = Callable[..., ResolvedRun]

TEXTS = [f"Satz {number}: der {'äöü€'[number % 4]} kommt {'oft ' * (number % 5)}vor.\nEnde." for number in range(30)]
HELD_OUT = ["Ein Baum 木 steht.", "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch 🌲.", "€"]
TINY = ("model=tiny_llama", "device=cpu", "epochs=2", "batch_size=8", "max_length=24", "lr=3e-3")
SMALL = ("task=new_language", "task.symbols=6", "task.train_tokens=900", "task.validation_tokens=400")


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")``: a tiny run on text files, resolved in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "data/validation.txt").write_text("\n\n".join(HELD_OUT), encoding="utf-8")
    return lambda *overrides: resolve(compose("task=text", "data_dir=data", *TINY, *overrides), {})


def prepared(resolved: ResolvedRun) -> PreparedTask:
    return resolved.config.task.prepare(resolved.context)


@torch.no_grad()
def by_hand(model: nn.Module, tokenizer: Any, texts: list[str], length: int) -> tuple[float, float]:
    """Loss per token and bits per character of documents, one row at a time, with nothing of ours."""
    stream = [tokenizer.eos_token_id]
    for text in texts:
        stream += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    nats, count = 0.0, 0
    for start in range(0, len(stream) - 1, length - 1):
        row = torch.tensor(stream[start : start + length])
        logs = functional.log_softmax(model(input_ids=row[None]).logits[0].double(), -1)
        nats -= sum(logs[place, row[place + 1]].item() for place in range(len(row) - 1))
        count += len(row) - 1
    assert count == len(stream) - 1
    return nats / count, nats / math.log(2) / len("".join(texts))


# Scores


@pytest.mark.parametrize("length", [7, 24, 500])
def test_scores_equal_a_computation_by_hand(
    make_setup: MakeSetup, loud: Callable[[PreTrainedModel], PreTrainedModel], length: int
) -> None:
    problem = prepared(make_setup("protocol=paper", f"max_length={min(length, 100)}"))
    model = loud(problem.model)
    found = problem.select(model).scores
    loss, bits = by_hand(model.eval(), problem.tokenizer, HELD_OUT, min(length, 100))
    assert found == pytest.approx({"loss": loss, "bits_per_character": bits}, rel=1e-5)
    assert problem.facts["characters"] == sum(map(len, HELD_OUT)) < problem.facts["tokens"]
    assert problem.facts["tokens"] == sum(len(text.encode()) + 1 for text in HELD_OUT)  # one token a byte, and the end


def test_held_out_documents_select_and_the_validation_text_is_reported(
    make_setup: MakeSetup, loud: Callable[[PreTrainedModel], PreTrainedModel]
) -> None:
    resolved = make_setup("protocol=fair")
    problem = prepared(resolved)
    documents = load_documents(resolved.config.task, resolved.context)  # pyrefly: ignore[bad-argument-type]
    model = loud(problem.model)
    assert problem.report is not None
    for evaluate, texts in ((problem.select, documents.held_out), (problem.report, HELD_OUT)):
        assert evaluate(model).scores["loss"] == pytest.approx(
            by_hand(model, problem.tokenizer, texts, 24)[0], rel=1e-5
        )


def test_bits_per_character_do_not_depend_on_how_the_text_is_cut_for_a_model_without_context(
    make_setup: MakeSetup,
) -> None:
    """Each token counts once whatever the rows. A model that knows letter frequencies alone sees no difference."""

    class Unigram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.linspace(-3, 3, 261)

        def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
            logits = self.logits.expand(*input_ids.shape, -1)
            return SimpleNamespace(loss=functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))

    model: Any = Unigram()
    found = []
    for length in (5, 24, 100):
        problem = prepared(make_setup("protocol=paper", f"max_length={length}"))
        found.append(problem.select(model).scores["bits_per_character"])
    logs = functional.log_softmax(model.logits.double(), 0)
    tokenizer: Any = problem.tokenizer
    tokens = [token for text in HELD_OUT for token in (*tokenizer.encode(text, add_special_tokens=False), 2)]
    expected = -sum(logs[token].item() for token in tokens) / math.log(2) / len("".join(HELD_OUT))
    assert found == pytest.approx([expected] * 3, rel=1e-6)


def test_an_optimal_predictor_reaches_the_floor_and_no_other_does(make_setup: MakeSetup) -> None:
    resolved = make_setup(*SMALL, "task.validation_tokens=20000", "protocol=paper")
    task: Any = resolved.config.task
    assert isinstance(task, NewLanguageTask)
    problem = prepared(resolved)
    source = MarkovSource(6, task.concentration, 0)
    assert problem.tokenizer is not None
    tokens = new_language.vocabulary(problem.tokenizer, task)
    symbols = torch.full((261,), -1)
    symbols[tokens] = torch.arange(6)

    class Optimal(nn.Module):
        """Knows the probabilities, and mixes them with equal ones by ``doubt``."""

        def __init__(self, doubt: float) -> None:
            super().__init__()
            self.doubt = doubt

        def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
            seen = symbols[input_ids]
            known = torch.from_numpy(source.transitions)[seen[:, :-1], seen[:, 1:]]
            logits = torch.full((*input_ids.shape, 261), -1e9, dtype=torch.float64)
            logits[:, 1:, tokens] = (known * (1 - self.doubt) + self.doubt / 6).clamp(min=1e-300).log()
            return SimpleNamespace(loss=functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))

    def loss(doubt: float) -> float:
        model: Any = Optimal(doubt)
        return problem.select(model).scores["loss"]

    assert loss(0.0) == pytest.approx(problem.facts["source_loss"], rel=1e-9)
    assert loss(0.0) == pytest.approx(problem.facts["entropy"], abs=0.03)
    assert problem.facts["entropy"] == source.entropy
    assert loss(0.01) > loss(0.0) + 0.001
    assert loss(0.3) > loss(0.01)


def test_symbols_are_different_ordinary_tokens_and_the_floor_does_not_depend_on_the_model(
    make_setup: MakeSetup,
) -> None:
    resolved = make_setup(*SMALL, "protocol=fair")
    problem = prepared(resolved)
    assert problem.tokenizer is not None
    tokens = new_language.vocabulary(problem.tokenizer, resolved.config.task)  # pyrefly: ignore[bad-argument-type]
    assert len(set(tokens.tolist())) == 6
    assert not set(tokens.tolist()) & set(problem.tokenizer.all_special_ids)
    batch = next(iter(problem.train.epoch()))
    assert set(batch["input_ids"].flatten().tolist()) <= set(tokens.tolist())
    other = prepared(make_setup(*SMALL, "protocol=fair", "model=tiny_gpt2"))
    assert other.facts == problem.facts
    assert other.info == problem.info
    again = prepared(make_setup(*SMALL, "protocol=fair", "seed=1"))
    assert again.facts["entropy"] == problem.facts["entropy"]
    assert again.info.fingerprint != problem.info.fingerprint  # other rows are held out
    other = prepared(make_setup(*SMALL, "protocol=paper", "seed=1"))
    assert other.info.fingerprint == prepared(make_setup(*SMALL, "protocol=paper")).info.fingerprint


def test_limits_of_a_new_language_count_rows(make_setup: MakeSetup) -> None:
    whole = prepared(make_setup(*SMALL, "protocol=paper")).info
    assert whole.rows == {"train": 898 // 22, "held_out": 0, "validation": math.ceil(398 / 22)}
    assert not whole.subset
    part = prepared(make_setup(*SMALL, "limit_train=20", "limit_eval=5", "protocol=fair"))
    assert part.info.rows == {"train": 18, "held_out": 2, "validation": 5}
    assert part.info.subset
    assert part.info.official_rows == {"train": whole.rows["train"], "validation": whole.rows["validation"]}
    assert len(part.train) == 3


def assert_from_the_whole(whole: list[list[int]], some: list[list[int]], count: int) -> None:
    """Some rows are so many of the whole, in their order, and not just the first ones."""
    places = [whole.index(row) for row in some]
    assert len(some) == count
    assert places == sorted(places) != list(range(count))


def test_a_limited_validation_text_is_rows_from_all_of_it_the_same_for_every_seed_and_for_forgetting(
    make_setup: MakeSetup,
) -> None:
    def rows(*overrides: str) -> list[list[int]]:
        resolved = make_setup(*SMALL, "protocol=paper", *overrides)
        problem = prepared(resolved)
        assert problem.tokenizer is not None
        loaded = Loaded(problem.model, problem.tokenizer)
        found = []
        for evaluate in (problem.select, resolved.config.task.validation_loss(resolved.context, loaded)):
            assert isinstance(evaluate, HeldOutLoss)
            found.append([row for batch in evaluate.batches.epoch() for row in batch["input_ids"].tolist()])
        assert found[0] == found[1]
        return found[0]

    some = rows("limit_eval=6")
    assert_from_the_whole(rows(), some, 6)
    assert rows("limit_eval=6", "seed=1") == some


def test_limited_training_rows_are_from_the_whole_text_and_the_same_for_every_seed(make_setup: MakeSetup) -> None:
    def rows(*overrides: str) -> list[list[int]]:
        train = prepared(make_setup(*SMALL, "protocol=paper", *overrides)).train
        return train.tensors["input_ids"].tolist()

    some = rows("limit_train=20")
    assert_from_the_whole(rows(), some, 20)
    assert rows("limit_train=20", "seed=1") == some


def test_the_tokens_of_a_language_depend_on_its_seed_alone(make_setup: MakeSetup) -> None:
    def tokens(*overrides: str) -> list[int]:
        resolved = make_setup(*SMALL, *overrides)
        tokenizer: Any = prepared(resolved).tokenizer
        return new_language.vocabulary(tokenizer, resolved.config.task).tolist()  # pyrefly: ignore[bad-argument-type]

    assert tokens() == tokens("seed=1")
    assert tokens() != tokens("task.source_seed=1")


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_llama"])
def test_rows_need_no_mask_in_training_nor_evaluation(
    make_setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """A mask would take the fast kernel away, and asking whether one is needed would make the host wait."""
    made: list[Tensor | None] = []

    def noting(**options: Any) -> Tensor | None:
        made.append(attention.bias_mask(**options))
        return made[-1]

    problem = prepared(make_setup("protocol=paper", f"model={model}"))
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: pytest.fail("asked about packing"))
    AttentionMaskInterface.register(attention.NAME, noting)
    try:
        batch = next(iter(problem.train.epoch()))
        problem.model.train()(**batch).loss.backward()
        problem.select(problem.model)
    finally:
        AttentionMaskInterface.register(attention.NAME, attention.bias_mask)
    assert set(batch) == {"input_ids", "labels"}
    assert made
    assert all(mask is None for mask in made)


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("max_length=1",), "max_length=1 does not suit task=text and model=tiny_llama; use 2 to 512"),
        (("max_length=513",), "use 2 to 512"),
        ((*SMALL, "max_length=2"), "use 3 to 512"),
        ((*SMALL, "task.train_tokens=20"), "shorter than one row of max_length=24"),
        (("limit_train=2", "max_length=500", "protocol=paper"), "shorter than one row of max_length=500"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(make_setup: MakeSetup, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(make_setup(*overrides))


def test_a_language_with_more_symbols_than_tokens_is_refused(make_setup: MakeSetup) -> None:
    resolved = make_setup(*SMALL)
    words = {"a": 0, "b": 1, "c": 2}
    tokenizer: Any = SimpleNamespace(all_special_ids=[0], added_tokens_decoder={1: ""}, get_vocab=lambda: words)
    with pytest.raises(UserError, match=r"task\.symbols=6 is more than the model's 1 ordinary tokens"):
        new_language.vocabulary(tokenizer, resolved.config.task)  # pyrefly: ignore[bad-argument-type]


def test_an_encoder_and_an_unknown_score_are_refused(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match="task=text is not for model=tiny_bert; it needs a decoder"):
        compose("task=text", "model=tiny_bert")
    with pytest.raises(UserError, match=r"task\.score=accuracy"):
        compose("task=text", "model=tiny_llama", "task.score=accuracy")


# Runs


@pytest.mark.parametrize("task", [(), SMALL], ids=["text", "new_language"])
def test_training_rows_are_shuffled_by_the_runs_seed_and_their_labels_counted(
    make_setup: MakeSetup, task: tuple[str, ...]
) -> None:
    orders = []
    for seed in (0, 1):
        problem = prepared(make_setup("protocol=paper", *task, f"seed={seed}"))
        batches = list(problem.train.epoch())
        orders.append([tuple(row) for batch in batches for row in batch["input_ids"].tolist()])
        assert problem.facts["train_tokens"] == sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("task", [(), SMALL], ids=["text", "new_language"])
@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_a_run_is_recorded_and_learns(make_setup: MakeSetup, task: tuple[str, ...], protocol: str) -> None:
    resolved = make_setup(*task, f"protocol={protocol}", "method=ft", "save_model=true")
    untouched = prepared(resolved)
    evaluate = untouched.report or untouched.select
    before = evaluate(untouched.model).scores
    record = run(resolved)
    assert load_records(resolved.results_dir) == [record]
    scores = to_values(record)["scores"]
    assert (scores["reported"], scores["lower_is_better"]) == ("loss", True)
    assert scores["selected_by"] == {"name": "loss", "lower_is_better": True}
    assert scores["selected_on"] == ("held_out" if protocol == "fair" else "validation")
    assert {"characters", "tokens", "train_tokens"} < set(record.data.facts)
    assert ("entropy" in record.data.facts) == bool(task)
    assert record.selected["loss"] < before["loss"]
    bits = record.selected["loss"] * record.data.facts["tokens"] / math.log(2)
    assert record.selected["bits_per_character"] == pytest.approx(bits / record.data.facts["characters"])
    saved = AutoModelForCausalLM.from_pretrained(resolved.saved_model)
    assert evaluate(saved).scores == pytest.approx({key: record.selected[key] for key in before}, rel=1e-5)
    if not task:
        loss, _ = by_hand(saved, AutoTokenizer.from_pretrained(resolved.saved_model), HELD_OUT, 24)
        assert record.selected["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("task", [(), SMALL], ids=["text", "new_language"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    make_setup: MakeSetup, at_step: Any, task: tuple[str, ...]
) -> None:
    settings = (*task, "method=rosa", "method.resample_every=1", "protocol=fair", "checkpoint_s=0", "save_model=true")
    alone = make_setup(*settings, "results_dir=alone", "output_dir=alone")
    expected = run(alone)

    def interrupt() -> None:
        raise KeyboardInterrupt

    broken = make_setup(*settings)
    with pytest.raises(KeyboardInterrupt):
        run(broken, [at_step(len(prepared(broken).train) + 1, interrupt)])
    steps = at_step(-1, interrupt)
    found = run(make_setup(*settings), [steps])
    assert steps.steps[0] > 0  # it went on
    assert (found.selected, found.last) == (expected.selected, expected.last)
    assert [epoch.train_loss for epoch in found.scores.epochs] == [epoch.train_loss for epoch in expected.scores.epochs]
    files = [(place.saved_model / "model.safetensors").read_bytes() for place in (alone, broken)]
    assert files[0] == files[1]
