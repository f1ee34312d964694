"""Diff pruning: the cut to a target density, the penalty, and which epochs may be selected."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.weights.gated import GatedDifference, gate
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.diff_pruning import DiffPruning
from rosa_bench.runs.run import recipe as recipe_of
from rosa_bench.training.loop import change
from rosa_bench.training.state import Training, TrainingFailedError

MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
CPU = torch.device("cpu")


@pytest.fixture
def start(compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]) -> Callable[..., Training]:
    """``start("tiny_gpt2", density=0.01)``: training to begin, of 8 steps."""

    def make(model: str, **changes: Any) -> Training:
        task = "grammar" if model == "tiny_roberta" else "restaurants"
        config = compose(f"task={task}", f"model={model}", "method=diff_pruning", "protocol=paper", "epochs=1")
        method: Any = replace(config.method, **{"gate_lr_ratio": 100.0, **changes})  # pyrefly: ignore[bad-argument-type]
        net: Any = method.attach(tiny_model(model))
        return Training(net, method, recipe_of(config, 8), steps_per_epoch=8, device=CPU)

    return make


def method_of(training: Training) -> DiffPruning:
    assert isinstance(training.method, DiffPruning)
    return training.method


def loss(training: Training) -> Tensor:
    ids = torch.randint(5, 200, (2, 8), generator=torch.Generator().manual_seed(training.step))
    labels = torch.tensor([0, 1]) if type(training.model).__name__.startswith("Roberta") else ids
    return training.model(input_ids=ids, labels=labels).loss


def advance(training: Training, steps: int) -> None:
    for _ in range(steps):
        if training.method.is_due(training.step, training.length):
            change(training, headroom_bytes=None, loss=lambda: loss(training))
        training.set_lr(1e-3)
        loss(training).backward()
        if (penalty := training.method.penalty(training.model)) is not None:
            penalty.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.step += 1


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_largest_differences_are_kept_and_train_on(
    start: Callable[..., Training], tiny_model: Callable[..., PreTrainedModel], model: str, structured: bool
) -> None:
    training = start(model, density=0.01, structured=structured)
    method, forms = method_of(training), method_of(training).differences(training.model)
    training.model.train()
    advance(training, 4)
    with torch.no_grad():
        for form in forms:
            form.a.uniform_(0.1, 3)  # a large difference behind a nearly closed gate is small
        before = torch.cat([form.expected().flatten() for form in forms])
    assert before.count_nonzero() > 0.4 * len(before)  # an embedding that no text uses stays as it is
    count = round(0.01 * len(before))
    change(training, headroom_bytes=None, loss=lambda: loss(training))
    with torch.no_grad():
        after = torch.cat([form.expected().flatten() for form in forms])
    kept = before.abs() >= before.abs().sort().values[-count]
    torch.testing.assert_close(after, torch.where(kept, before, 0))
    assert not [name for name, p in training.model.named_parameters() if p.requires_grad and "difference" not in name]

    training.step = 5
    advance(training, 3)
    with torch.no_grad():
        final = torch.cat([form.expected().flatten() for form in forms])
    assert torch.equal(final != 0, kept)
    assert not torch.equal(final, after)
    assert method.merge(training.model) is True
    plain = dict(tiny_model(model).named_parameters())
    merged = dict(training.model.named_parameters())
    assert merged.keys() == plain.keys()
    assert sum(int((merged[name] != plain[name]).sum()) for name in plain) <= count


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_pruned_if_a_difference_is_not_finite(start: Callable[..., Training], value: float) -> None:
    training = start("tiny_roberta")
    method = method_of(training)
    forms = method.differences(training.model)
    forms[1].difference.data.flatten()[0] = value
    before = {name: it.clone() for name, it in method.state(training.model).items()}
    with pytest.raises(TrainingFailedError, match=r"a difference contains NaN or Inf.*; lower the learning rate"):
        change(training, headroom_bytes=None, loss=lambda: loss(training))
    after = method.state(training.model)
    assert all(torch.equal(after[name].nan_to_num(), it.nan_to_num()) for name, it in before.items())
    assert all(form.a.requires_grad for form in forms)


@pytest.mark.parametrize("reset", ["all", "factors"])
def test_fixed_gates_have_no_optimizer_state_and_kept_differences_start_again(
    start: Callable[..., Training], reset: str
) -> None:
    training = start("tiny_roberta")
    training.recipe = replace(training.recipe, reset=reset)
    advance(training, 4)
    forms = method_of(training).differences(training.model)
    assert all(form.a in training.optimizer.state for form in forms)
    change(training, headroom_bytes=None, loss=lambda: loss(training))
    assert not [form for form in forms if form.a in training.optimizer.state or form.group in training.optimizer.state]
    assert not [form for form in forms if training.optimizer.state[form.difference]["exp_avg"].any()]
    assert training.resamples == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gates_are_exactly_open_or_closed_after_the_cut_and_can_be_saved(dtype: torch.dtype) -> None:
    form = GatedDifference(torch.zeros(3, 2, dtype=dtype), start=5.0, structured=True)
    with torch.no_grad():
        form.difference.fill_(1)
    form.fix(torch.tensor([1, 4]))
    assert gate(form.a).flatten().tolist() == [0, 1, 0, 0, 1, 0]
    assert form.group is not None and gate(form.group).tolist() == [1]
    assert all(tensor.isfinite().all() for tensor in form.state_dict().values())  # an adapter refuses others


def test_the_penalty_is_the_expected_number_of_changes_until_the_cut(start: Callable[..., Training]) -> None:
    training = start("tiny_roberta", l0_weight=1e-3, gate_start=2.0)
    open_ = torch.sigmoid(torch.tensor(2.0)).item()  # log(-l / r) = 0
    head = {id(p) for name, p in training.model.named_parameters() if name.startswith("classifier")}
    body = sum(form.a.numel() for form in method_of(training).differences(training.model))
    assert body == sum(p.numel() for n, p in training.model.named_parameters() if n.endswith("original"))
    assert not head & {id(form.a) for form in method_of(training).differences(training.model)}
    penalty = training.method.penalty(training.model)
    assert penalty is not None
    assert penalty.item() == pytest.approx(1e-3 * body * open_**2, rel=1e-4)
    single = start("tiny_roberta", l0_weight=1e-3, gate_start=2.0, structured=False)
    penalty = single.method.penalty(single.model)
    assert penalty is not None
    assert penalty.item() == pytest.approx(1e-3 * body * open_, rel=1e-4)
    change(training, headroom_bytes=None, loss=lambda: loss(training))
    assert training.method.penalty(training.model) is None


def test_a_large_penalty_closes_gates(start: Callable[..., Training]) -> None:
    def opened(l0_weight: float) -> float:
        training = start("tiny_roberta", l0_weight=l0_weight, gate_start=1.0, gate_lr_ratio=1000.0, structured=False)
        training.model.train()
        advance(training, 4)
        forms = method_of(training).differences(training.model)
        with torch.no_grad():
            return sum(form.expected_nonzeros().item() for form in forms) / sum(form.a.numel() for form in forms)

    assert opened(1.0) < opened(0.0) - 0.05


@pytest.mark.parametrize(("length", "prune_at", "step"), [
    (RunLength(10, 2), 0.5, 10), (RunLength(3, 1), 0.5, 2), (RunLength(1, 2), 0.5, 1), (RunLength(1, 1), 0.5, 0),
    (RunLength(10, 2), 0.01, 1), (RunLength(10, 2), 0.99, 19),
])  # fmt: skip
def test_when_the_cut_is_and_what_may_be_selected(
    start: Callable[..., Training], length: RunLength, prune_at: float, step: int
) -> None:
    method = method_of(start("tiny_roberta", prune_at=prune_at))
    due = [number for number in range(length.total_steps) if method.is_due(number, length)]
    assert due == [step]
    assert not method.is_selectable(step, length)
    assert method.is_selectable(step + 1, length)
    assert method.is_selectable(length.total_steps, length)


def test_gates_have_their_own_learning_rate_and_do_not_decay(start: Callable[..., Training]) -> None:
    training = start("tiny_roberta", gate_lr_ratio=100.0)
    differences, gates = training.optimizer.param_groups
    assert (gates["lr_scale"], gates["weight_decay"]) == (100.0, 0.0)
    assert differences["weight_decay"] > 0
    forms = method_of(training).differences(training.model)
    assert {id(p) for p in gates["params"]} == {id(p) for form in forms for p in (form.a, form.group)}
