"""LASER against an exhaustive search with `torch.linalg.svd`, and its runs: resumed, saved and loaded."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.structure.linear import LINEAR_TYPES, weight_of
from rosa_bench.layers.weights.reduced import NAME
from rosa_bench.methods.laser import UNCHANGED, Laser
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Epoch, Training

MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
TINY = ("device=cpu", "limit_train=60", "limit_eval=24", "batch_size=8")
PAPER = pytest.param(("protocol=paper",), marks=pytest.mark.slow)
FAIR = ("protocol=fair", "protocol.held_out_rows=0.4")
MakeRun = Callable[..., ResolvedRun]


@pytest.fixture
def make_run(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """``make_run("method=laser")``: a run on a tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose("task=grammar", "model=tiny_roberta", *TINY, *overrides), {})


def laser(compose: Callable[..., RunConfig], model: str, **changes: Any) -> Laser:
    task = "grammar" if model == "tiny_roberta" else "restaurants"
    found: Any = compose(f"task={task}", f"model={model}", "method=laser").method
    return replace(found, **changes)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_svd(weight: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ v[:rank]).to(weight.dtype)


@pytest.mark.parametrize("model", MODELS)
def test_a_candidate_is_the_model_with_one_weight_of_lower_rank(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], model: str
) -> None:
    method, plain = laser(compose, model, kept=[0.5, 0.1, 0.01, 0.02]), tiny_model(model)
    before, net = weights(plain), method.attach(tiny_model(model))
    names = method.candidates(net)
    assert names[0] == names[-1] == UNCHANGED
    linears = [name for name, module in plain.named_modules() if isinstance(module, LINEAR_TYPES)]
    body = [name for name in linears if "classifier" not in name and name != "lm_head"]
    full = {name: min(plain.get_submodule(name).weight.shape) for name in body}  # pyrefly: ignore[bad-argument-type]
    expected = [f"{name} at rank {rank}" for name in body for rank in (full[name] // 2, full[name] // 10, 1)]
    assert names[1:-1] == list(dict.fromkeys(expected))  # 0.01 and 0.02 of 32 are both rank 1
    for number in (2, 1, len(names) - 3, 0, 3):
        method.before_epoch(net, number)
        changed = {name for name, weight in weights(net).items() if not torch.equal(weight, before[name])}
        if number == 0:
            assert not changed
            continue
        name, _, rank = names[number].partition(" at rank ")
        assert changed == {f"{name}.weight"}
        found, expected = weight_of(net.get_submodule(name)), by_svd(weight_of(plain.get_submodule(name)), int(rank))  # pyrefly: ignore[bad-argument-type]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.linalg.matrix_rank(found.double(), rtol=1e-5) == int(rank)


def test_merging_makes_the_choice_of_the_state_and_leaves_a_plain_model(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    method, plain = laser(compose, "tiny_gpt2"), tiny_model("tiny_gpt2")
    net = method.attach(tiny_model("tiny_gpt2"))
    method.before_epoch(net, 5)
    chosen, last = weights(net), copy.deepcopy(net)
    assert [name for name in method.state(net) if name.startswith(NAME)] == [f"{NAME}.choice"]
    method.before_epoch(last, 9)
    with torch.no_grad():
        method.state(last)[f"{NAME}.choice"].fill_(5)  # as when the best epoch's state comes back
    for model in (net, last):
        assert method.merge(model) is True
        assert all(torch.equal(weight, chosen[name]) for name, weight in weights(model).items())
        assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
        assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("protocol", [PAPER, FAIR], ids=["paper", "fair"])
def test_a_run_finds_what_an_exhaustive_search_finds(make_run: MakeRun, protocol: tuple[str, ...]) -> None:
    resolved = make_run("method=laser", "method.kept=[0.5,0.05]", *protocol, "seed=3")
    run(resolved)
    record = load_record(resolved.record_path)
    assert record.status == "completed"
    assert (record.parameters.trainable, record.resamples) == (0, 0)

    task = resolved.config.task
    problem = task.prepare(resolved.context)
    plain, found = problem.model, [problem.select(problem.model).scores]
    names = [UNCHANGED]
    for name, module in plain.named_modules():
        if isinstance(module, LINEAR_TYPES) and "classifier" not in name:
            full = min(module.weight.shape)
            for rank in (full // 2, max(1, int(0.05 * full))):
                changed = copy.deepcopy(plain)
                layer: Any = changed.get_submodule(name)
                layer.weight.data = by_svd(layer.weight, rank)
                found.append(problem.select(changed).scores)
                names.append(f"{name} at rank {rank}")
    assert record.candidates == [*names, UNCHANGED]
    for epoch, expected in zip(record.scores.epochs, [*found, found[0]], strict=True):
        assert epoch.scores == pytest.approx(expected, abs=1e-6)
        assert epoch.train_loss is None
    by = [scores[task.score] for scores in found]
    best = by.index(max(by))
    assert record.selected.epoch == best + 1
    assert record.selected_candidate == names[best]
    assert record.selection_score == pytest.approx(max(by))
    if protocol == FAIR:  # the last candidate is the unchanged model
        assert problem.report is not None
        expected = problem.report(task.prepare(resolved.context).model).scores
        assert {k: v for k, v in record.last.items() if k != "epoch"} == pytest.approx(expected, abs=1e-6)


class StopAfter(Observer):
    """Ends the process's run, as Ctrl-C does, when this many candidates have been evaluated."""

    def __init__(self, count: int):
        self.count, self.evaluated = count, 0

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:  # noqa: ARG002 - a hook point
        self.evaluated += 1
        if number + 1 == self.count:
            raise KeyboardInterrupt


def shown(record: RunRecord) -> tuple[Any, ...]:
    """What must not depend on interruptions."""
    scores = record.scores
    return [epoch.scores for epoch in scores.epochs], dict(record.selected), dict(record.last), record.candidates


@pytest.mark.slow
def test_an_interrupted_search_goes_on_where_it_was(make_run: MakeRun) -> None:
    overrides = ("method=laser", "method.kept=[0.5,0.1]", *FAIR, "checkpoint_s=0")
    alone = run(make_run(*overrides, "results_dir=alone", "output_dir=alone"))
    assert alone.candidates
    resolved, count = make_run(*overrides), 0
    for stop in (3, 4, 15):
        with pytest.raises(KeyboardInterrupt):
            run(resolved, [StopAfter(stop)])
    rest = StopAfter(0)
    again = run(resolved, [rest])
    count = rest.evaluated
    assert count == len(alone.candidates) - 14  # the last stop came before its checkpoint
    assert shown(again) == shown(alone)


@pytest.mark.slow
def test_a_saved_model_is_reduced_and_saved_again(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    first = make_run("method=ft", "epochs=2", "lr=3e-3", *FAIR, "save_model=true")
    trained = run(first)
    caplog.set_level(logging.INFO)
    second = make_run(
        "method=laser", "method.kept=[0.5,0.1]", *FAIR, "save_model=true", f"model.path={first.saved_model}"
    )
    record = run(second)
    assert "random weights" not in caplog.text
    assert "training nothing, choosing among" in caplog.text
    assert dict(record.last) | {"epoch": 0} == pytest.approx(dict(trained.selected) | {"epoch": 0}, abs=1e-6)
    assert record.candidates
    before, after = (
        AutoModelForSequenceClassification.from_pretrained(it.saved_model).state_dict() for it in (first, second)
    )
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    expected = record.selected_candidate or ""
    assert changed == ([] if expected == UNCHANGED else [f"{expected.partition(' ')[0]}.weight"])


def test_a_head_with_random_weights_is_pointed_out(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run(make_run("method=laser", "method.kept=[0.5]", "method.targets=query"))
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "method=laser trains nothing, and the task's head has random weights" in line
    assert "save_model=true: model.path=FOLDER" in line


@pytest.mark.slow
def test_a_language_model_needs_no_head(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    record = run(make_run("task=restaurants", "model=tiny_llama", "limit_eval=4", "method=laser", "method.kept=[0.5]"))
    assert record.status == "completed"
    assert "random weights" not in caplog.text


def test_an_output_layer_is_reduced_without_the_embeddings_that_it_shares(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., Any]
) -> None:
    method = laser(compose, "tiny_gpt2", targets="lm_head", kept=[0.5])
    model: Any = method.attach(tiny_model("tiny_gpt2"))
    before = model.get_input_embeddings().weight.clone()
    method.before_epoch(model, 1)
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert not torch.equal(model.lm_head.weight, before)


def test_ranks_are_whole_parts_of_the_largest_and_below_it(compose: Callable[..., RunConfig]) -> None:
    method = laser(compose, "tiny_gpt2", targets="0", kept=[0.29, 0.999, 0.001])
    assert [rank for _, rank in method.reductions(nn.Sequential(nn.Linear(100, 120)))] == [99, 29, 1]  # 0.29 * 100 < 29
    assert method.reductions(nn.Sequential(nn.Linear(100, 1))) == []


def test_there_must_be_a_rank_to_lower(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    with pytest.raises(UserError, match=r"method=laser finds no weight whose rank it could lower; choose layers with"):
        laser(compose, "tiny_llama", kept=[]).attach(tiny_model("tiny_llama"))


def test_settings_that_cannot_be(compose: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match=r"method\.kept=1\.0 is out of range; it must be below 1"):
        compose("task=grammar", "model=tiny_roberta", "method=laser", "method.kept=[1.0]")
    with pytest.raises(UserError, match=r"offload=layers is for training; method=laser needs offload=null"):
        compose("task=grammar", "model=tiny_roberta", "method=laser", "offload=layers", "gradient_checkpointing=true")
