"""Preparation of generation tasks, compared with plain transformers and sacrebleu."""

import copy
import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import sacrebleu
import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import parts, targets
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.models.loading.pretrained import Loaded
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import recipe
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prepare import MAX_LOSS
from rosa_bench.tasks.generation.prompts import Prompt, load_prompts
from rosa_bench.tasks.generation.task import GenerationTask
from rosa_bench.tasks.prepared import PreparedTask
from rosa_bench.training.loop import backward

MakeSetup = Callable[..., ResolvedRun]
ProblemOf = Callable[..., PreparedTask]
Tiny = Callable[..., PreTrainedModel]
Loud = Callable[[PreTrainedModel], PreTrainedModel]

TINY = (
    "task=restaurants", "model=tiny_gpt2", "device=cpu", "limit_train=12", "limit_eval=5", "batch_size=4",
    "task.decoding.beams=2", "task.decoding.max_new_tokens=8",
)  # fmt: skip
KINDS = ("tiny_gpt2", "tiny_llama")


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    """``make_setup("method=lora")`` resolves a tiny run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


@pytest.fixture
def problem_of(make_setup: MakeSetup) -> ProblemOf:
    """``problem_of("model=tiny_llama", ...)`` prepares the task of such a run."""

    def make(*overrides: str) -> PreparedTask:
        resolved = make_setup(*overrides)
        return resolved.config.task.prepare(resolved.context)

    return make


def prompts_of(resolved: ResolvedRun, split: str) -> list[Prompt]:
    """The prompts of a run, loaded independently."""
    assert isinstance(resolved.config.task, GenerationTask)
    return getattr(load_prompts(resolved.config.task, None, limit_train=12, limit_eval=5), split)


def token_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> list[float]:
    """Cross entropy of every token of every reference and its EOS token, one sequence at a time."""
    found = []
    for prompt in prompts:
        for reference in prompt.references:
            before = [0, *tokenizer(f"{prompt.text} ||", add_special_tokens=False)["input_ids"]]
            after = [*tokenizer(f" {reference}", add_special_tokens=False)["input_ids"], 2]
            with torch.inference_mode():
                logits = model.eval()(torch.tensor([[*before, *after]])).logits[0]  # (tokens, vocabulary)
            predicted = logits[len(before) - 1 : -1]
            found += functional.cross_entropy(predicted, torch.tensor(after), reduction="none").tolist()
    return found


def tokenizer_of(problem: PreparedTask) -> PreTrainedTokenizerBase:
    assert problem.tokenizer is not None
    return problem.tokenizer


# Perplexity


@pytest.mark.parametrize(("kind", "batch_size", "protocol"), [
    ("tiny_gpt2", 1, "paper"), ("tiny_gpt2", 3, "fair"), ("tiny_llama", 3, "paper"), ("tiny_llama", 64, "fair"),
])  # fmt: skip
def test_the_selection_loss_is_the_mean_over_all_reference_tokens(
    make_setup: MakeSetup, kind: str, batch_size: int, protocol: str, loud: Loud
) -> None:
    """Only references and EOS tokens count, under every protocol, so that perplexities are comparable."""
    resolved = make_setup(f"model={kind}", f"batch_size={batch_size}", f"protocol={protocol}")
    problem = resolved.config.task.prepare(resolved.context)
    model = loud(problem.model)
    losses = token_losses(model, tokenizer_of(problem), prompts_of(resolved, "validation"))
    found = problem.select(model)
    assert found.scores["loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)
    assert found.scores["perplexity"] == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-4)
    assert set(found.scores) == {"loss", "perplexity"}
    assert found.generations == ()
    assert problem.selected_on == "validation_split"


def test_the_loss_that_measures_forgetting_is_of_the_validation_references(make_setup: MakeSetup, loud: Loud) -> None:
    resolved = make_setup()
    task, problem = resolved.config.task, resolved.config.task.prepare(resolved.context)
    model, tokenizer = loud(problem.model), tokenizer_of(problem)
    losses = token_losses(model, tokenizer, prompts_of(resolved, "validation"))
    found = task.validation_loss(resolved.context, Loaded(model, tokenizer))(model).scores
    assert found["loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)


def test_perplexity_of_a_huge_loss_is_finite(problem_of: ProblemOf) -> None:
    problem = problem_of()
    with torch.no_grad():
        problem.model.get_parameter("lm_head.weight").mul_(1e6)
    scores = problem.select(problem.model).scores
    assert scores["loss"] > MAX_LOSS
    assert scores["perplexity"] == pytest.approx(math.exp(700)) and math.isfinite(scores["perplexity"])


def test_perplexity_of_a_nan_loss_is_nan(problem_of: ProblemOf) -> None:
    """A NaN must end the run."""
    problem = problem_of()
    with torch.no_grad():
        problem.model.get_parameter("lm_head.weight").fill_(float("nan"))
    assert math.isnan(problem.select(problem.model).scores["loss"])


# Report


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_report_scores_the_texts_generated_for_test(
    make_setup: MakeSetup, kind: str, batch_size: int, loud: Loud
) -> None:
    resolved = make_setup(f"model={kind}", f"batch_size={batch_size}", "task.decoding.no_repeat_ngram=0")
    problem = resolved.config.task.prepare(resolved.context)
    model, tokenizer = loud(problem.model), tokenizer_of(problem)
    assert problem.report is not None
    found = problem.report(model)

    prompts = prompts_of(resolved, "test")
    assert [(one.prompt, list(one.references)) for one in found.generations] == [
        (prompt.text, prompt.references) for prompt in prompts
    ]
    for one in found.generations:  # as generated by plain transformers
        ids = torch.tensor([[0, *tokenizer(f"{one.prompt} ||", add_special_tokens=False)["input_ids"]]])
        how = GenerationConfig(
            num_beams=2, max_new_tokens=8, early_stopping=True, do_sample=False, eos_token_id=2, pad_token_id=1
        )
        [tokens] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)  # pyrefly: ignore[not-callable]
        assert one.output == str(tokenizer.decode(tokens[ids.shape[1] :], skip_special_tokens=True)).strip()
    assert len({one.output for one in found.generations}) > 1

    outputs = [one.output for one in found.generations]
    most = max(len(prompt.references) for prompt in prompts)
    streams = [[(*prompt.references, *[None] * most)[n] for prompt in prompts] for n in range(most)]
    for figure, lowercase in (("bleu", True), ("bleu_cased", False)):
        expected = sacrebleu.corpus_bleu(outputs, streams, lowercase=lowercase).score / 100  # pyrefly: ignore[bad-argument-type]
        assert found.scores[figure] == pytest.approx(expected)
    losses = token_losses(model, tokenizer, prompts)
    assert found.scores["perplexity"] == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-4)
    assert set(found.scores) == {*load_metric("generation").scores, "perplexity", "loss"}


def test_generating_a_reference_gives_a_perfect_score(problem_of: ProblemOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any reference gives a perfect score."""
    problem = problem_of("task.decoding.max_new_tokens=100")
    assert problem.report is not None
    references = [one.references for one in problem.report(problem.model).generations]
    last = [some[-1] for some in references]
    monkeypatch.setattr("rosa_bench.tasks.generation.prepare.generate", lambda *_, **__: last)
    assert problem.report(problem.model).scores["bleu"] == pytest.approx(1)
    monkeypatch.setattr("rosa_bench.tasks.generation.prepare.generate", lambda *_, **__: last[::-1])
    assert problem.report(problem.model).scores["bleu"] < 0.9  # each with its own references


def test_the_number_of_prompts_is_recorded(make_setup: MakeSetup) -> None:
    resolved = make_setup()
    problem = resolved.config.task.prepare(resolved.context)
    assert problem.facts == {"prompts": {"validation": 5, "test": 5}}
    assert problem.info.rows["train"] == 12 == problem.train.examples
    assert problem.signature == load_metric("generation").signature


def test_training_rows_are_shuffled_by_the_runs_seed_and_grouped_if_asked(problem_of: ProblemOf) -> None:
    def lengths(*overrides: str) -> list[int]:
        return [int(row.sum()) for batch in problem_of(*overrides).train.epoch() for row in batch["attention_mask"]]

    first, second, grouped = lengths(), lengths("seed=1"), lengths("group_by_length=true")
    assert sorted(first) == sorted(second)
    assert first != second
    assert grouped == sorted(first, reverse=True) != first


@pytest.mark.parametrize(("protocol", "on_prompt"), [("paper", True), ("fair", False)])
def test_the_protocol_decides_whether_the_loss_includes_the_prompt(
    problem_of: ProblemOf, protocol: str, on_prompt: bool
) -> None:
    problem = problem_of(f"protocol={protocol}")
    for batch in problem.train.epoch():
        counted = int(targets(batch)) == int(batch["attention_mask"].sum()) - len(batch["labels"])
        assert counted is on_prompt


# Without texts

SILENT = (*(word for word in TINY if not word.startswith("task.decoding.")), "task.decoding=null")


@pytest.mark.parametrize("score", ["loss", "perplexity"])
def test_without_decoding_the_references_alone_are_scored(
    compose: Callable[..., RunConfig], make_setup: MakeSetup, score: str, loud: Loud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rosa_bench.tasks.generation.prepare.generate", None)
    silent = compose(*SILENT, f"task.score={score}")
    problem = silent.task.prepare(resolve(silent, {}).context)
    losses = token_losses(loud(problem.model), tokenizer_of(problem), prompts_of(make_setup(), "test"))
    assert problem.report is not None
    found = problem.report(problem.model)
    assert found.scores["loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)
    assert set(found.scores) == {"loss", "perplexity"}
    assert (found.generations, problem.signature) == ((), "")
    assert silent.task.lower_is_better


def test_the_loss_can_be_reported_of_a_task_that_writes_texts(make_setup: MakeSetup) -> None:
    assert make_setup("task.score=loss").config.task.lower_is_better
    assert not make_setup().config.task.lower_is_better


def test_a_score_of_texts_without_texts_is_an_error(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match=r"task\.score=bleu; use task\.score=loss"):
        compose(*SILENT)


# Lengths


@pytest.mark.parametrize(("overrides", "message"), [
    (("max_length=513",), "max_length=513"),
    (("max_length=null",), "max_length=None"),
    (("task.decoding.max_new_tokens=512",), "task.decoding.max_new_tokens=512"),
    (("model.random.n_positions=64", "max_length=65"), "at most 64"),
    (("max_length=20",), "max_length=20 would truncate a reference"),
])  # fmt: skip
def test_unsuitable_lengths_are_an_error(problem_of: ProblemOf, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        problem_of(*overrides)


def test_prompts_are_truncated_to_leave_room_for_the_output(
    problem_of: ProblemOf, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 512 positions, 500 are reserved for the output, which leaves 12 for the prompt."""
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        problem = problem_of("task.decoding.max_new_tokens=500", "task.decoding.beams=1", "limit_eval=2")
        assert "2 of 2 prompts are too long and were truncated from the left" in caplog.messages
    assert problem.report is not None
    [first, second] = problem.report(problem.model).generations
    assert min(len(first.prompt), len(second.prompt)) > 12  # stored untruncated beside the record


@pytest.mark.parametrize(("length", "new", "limit"), [(30, 8, 30), (30, 490, 22), (512, 8, 504)])
def test_outputs_continue_as_much_of_a_prompt_as_the_model_was_trained_on_and_has_room_for(
    make_setup: MakeSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, length: int, new: int, limit: int
) -> None:
    (tmp_path / "data/e2e_nlg").mkdir(parents=True)
    row = json.dumps({"meaning_representation": "name[A]" * 100, "human_reference": "A place."})
    for split in ("train", "validation", "test"):
        (tmp_path / f"data/e2e_nlg/{split}.jsonl").write_text(f"{row}\n")
    resolved = make_setup(
        "task=e2e_nlg", "data_dir=data", f"max_length={length}", f"task.decoding.max_new_tokens={new}",
        "limit_train=null", "limit_eval=null",
    )  # fmt: skip
    problem = resolved.config.task.prepare(resolved.context)
    given: list[list[int]] = []

    def written(
        _model: PreTrainedModel, _tokenizer: object, prompts: list[list[int]], *_: object, **__: object
    ) -> list:
        given.extend(prompts)
        return [""] * len(prompts)

    monkeypatch.setattr("rosa_bench.tasks.generation.prepare.generate", written)
    assert problem.report is not None
    problem.report(problem.model)
    [prompt] = given
    whole = tokenizer_of(problem)(f"{'name[A]' * 100} ||", add_special_tokens=False)["input_ids"]
    assert prompt == [0, *whole[len(whole) - limit + 1 :]]  # after the BOS token, the end


# Parts of a batch


@pytest.mark.parametrize("protocol", ["paper", "fair"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_ragged_sequences_give_the_gradient_of_the_batch(
    problem_of: ProblemOf, kind: str, protocol: str, loud: Loud
) -> None:
    problem = problem_of(f"model={kind}", f"protocol={protocol}")
    model = loud(problem.model).double().eval()
    batch = next(problem.train.epoch())
    assert len({int(targets(part)) for part in parts(batch, 4)}) > 1  # sequences have different numbers of labels

    def gradient(into: int) -> tuple[float, dict[str, torch.Tensor]]:
        own = copy.deepcopy(model)
        loss = backward(own, batch, nullcontext, accumulate=into)
        return loss.item(), {name: p.grad for name, p in own.named_parameters() if p.grad is not None}

    whole_loss, whole = gradient(1)
    assert set(whole) == {name for name, _ in model.named_parameters()}
    for into in (2, 3, 4):
        loss, summed = gradient(into)
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        for name, expected in whole.items():  # transformers computes logits and loss in float32
            torch.testing.assert_close(summed[name], expected, rtol=0, atol=1e-6 * expected.abs().max().item())


def test_a_warm_up_longer_than_the_run_is_logged(make_setup: MakeSetup, caplog: pytest.LogCaptureFixture) -> None:
    config = make_setup("epochs=2").config
    assert config.optimizer.warmup_steps == 500
    with caplog.at_level(logging.WARNING, logger="rosa_bench"):
        assert recipe(config, 251).warmup_steps == 500
        assert caplog.messages == []
        assert recipe(config, 250).warmup_steps == 500
    [said] = caplog.messages
    assert said.startswith("the warm-up of 500 steps is as long as the whole run of 500")
    assert "optimizer.warmup_steps=null" in said
