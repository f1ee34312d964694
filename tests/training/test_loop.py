import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import Batch, Batches, TokenBatches
from rosa_bench.data.token_cache import Tokens
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.methods.base import Changed, Groups, Method, RunLength
from rosa_bench.methods.lora import Lora
from rosa_bench.methods.rosa import Rosa
from rosa_bench.optim.adamw import AdamW
from rosa_bench.optim.schedule import SCHEDULES, lr_at
from rosa_bench.runs.run import recipe as recipe_of
from rosa_bench.system.resources.meter import Meter
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.loop import backward, fit
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.observers.progress import TrainingProgress
from rosa_bench.training.state import (
    Epoch,
    Recipe,
    Scores,
    Training,
    TrainingFailedError,
    checked,
    reset_optimizer_state,
)

CPU = torch.device("cpu")


@dataclass
class Fixed:
    """The interface that `fit` needs of batches. Every epoch has the same batches of two rows."""

    all: list[Batch]
    batch_size: int = 2
    given: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.all)

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        for batch in self.all[start:]:
            self.given.append(number)
            yield batch


class Regression(nn.Module):
    """A linear model that returns its mean squared error, like a Hugging Face model."""

    def __init__(self, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.modes: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
        self.modes.append(self.training)
        y = self.linear(x)
        return SimpleNamespace(loss=(y - labels).square().mean(), logits=y)


@dataclass(frozen=True, kw_only=True)
class Recorder(Method):
    """Trains everything, and records when it was asked to resample and the model at that time."""

    name: str = "recorder"
    title: str = "Recorder"
    seed: int = 0
    head: str = "head"
    default_lr: dict[str, float] = field(default_factory=dict)
    due: tuple[int, ...] = ()
    asked: list[tuple[int, int]] = field(default_factory=list)
    resampled: dict[int, list[Tensor]] = field(default_factory=dict)

    def trainable(self, model: nn.Module) -> Any:
        return model.parameters()

    def is_due(self, step: int, length: RunLength) -> bool:
        self.asked.append((step, length.steps_per_epoch))
        return step in self.due

    def before_step(self, model: nn.Module, step: int, **_known: Any) -> Changed:
        self.resampled[step] = [parameter.detach().clone() for parameter in model.parameters()]
        return Changed(reset=[parameter for name, parameter in model.named_parameters() if name.endswith("weight")])


class Watcher(Observer):
    """Records each hook call with its step. ``between`` is called after every step and every epoch."""

    def __init__(self, between: Callable[[Training], None] = lambda _training: None):
        self.between = between
        self.calls: list[tuple[str, int]] = []
        self.epochs: list[tuple[int, Epoch]] = []
        self.changes: list[Changed] = []

    def on_train_start(self, training: Training) -> None:
        self.calls.append(("train start", training.step))

    def on_step_start(self, training: Training) -> None:
        self.calls.append(("step start", training.step))

    def on_method_change(self, training: Training, changed: Changed) -> None:
        self.calls.append(("change", training.step))
        self.changes.append(changed)

    def on_step_end(self, training: Training) -> None:
        self.calls.append(("step end", training.step))
        self.between(training)

    def on_epoch_end(self, training: Training, number: int, epoch: Epoch) -> None:
        self.calls.append(("epoch end", training.step))
        self.epochs.append((number, epoch))
        self.between(training)

    def on_train_end(self, training: Training) -> None:
        self.calls.append(("train end", training.step))


def regression_data(count: int, rows: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        {"x": torch.randn(rows, 3, generator=generator), "labels": torch.randn(rows, 1, generator=generator)}
        for _ in range(count)
    ]


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"lr": 0.1, "epochs": 2, "warmup_steps": 0, "accumulate": 1, "reset": "factors"}
    optimizer: dict[str, Any] = {
        "name": "adamw", "schedule": "linear", "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.0,
        "clip_norm": None, "warmup_fraction": 0.0, "warmup_steps": None, "default_betas": {}, "default_eps": {},
    }  # fmt: skip
    optimizer |= {key: changes.pop(key) for key in list(changes) if key in optimizer and key != "warmup_steps"}
    return Recipe(**{**settings, **changes}, optimizer=AdamW(**optimizer))


def run(model: nn.Module, method: Method, batches: Any, plan: Recipe, **options: Any) -> list[Epoch]:
    options = {"evaluate": lambda: {"loss": 0.0}, "autocast": nullcontext, "meter": Meter(CPU), **options}
    return fit(model, method, cast(Batches, batches), recipe=plan, **options)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# The learning rate


def their_schedule(name: str, *, total: int, warmup: int) -> Callable[[int], float]:
    """The schedule of transformers, as a function of the step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    scheduler: Any = get_scheduler(name, optimizer, warmup, total)
    return scheduler.lr_lambdas[0]


@pytest.mark.parametrize(
    ("total", "warmup"), [(1, 0), (1, 1), (10, 0), (10, 1), (10, 3), (10, 9), (10, 10), (10, 25), (1000, 60)]
)
@pytest.mark.parametrize(
    ("schedule", "theirs", "end"),
    [("linear", "linear", 0), ("cosine", "cosine", 0), ("constant", "constant_with_warmup", 1)],
)
def test_lr_equals_transformers_schedule(schedule: str, theirs: str, end: float, total: int, warmup: int) -> None:
    expected = their_schedule(theirs, total=total, warmup=warmup)
    for step in range(total):
        assert lr_at(step, total, warmup, schedule) == pytest.approx(expected(step), abs=1e-15)
    assert warmup > total or lr_at(total, total, warmup, schedule) == end


def test_every_schedule_can_be_chosen_and_the_papers_is_the_default(compose: Callable[..., RunConfig]) -> None:
    tasks = ("cola", "e2e_nlg", "synthetic")  # one of each recipe
    assert list(SCHEDULES) == ["linear", "cosine", "constant"]
    chosen = [recipe_of(compose(f"optimizer.schedule={name}"), 10).optimizer.schedule for name in SCHEDULES]
    assert chosen == list(SCHEDULES)
    assert all(recipe_of(compose(f"task={task}"), 10).optimizer.schedule == "linear" for task in tasks)


# The gradient of a batch


@pytest.mark.parametrize("accumulate", [2, 3, 5, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    tiny_model: Callable[..., PreTrainedModel], accumulate: int
) -> None:
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 261, (5, 6), generator=generator)  # 5 rows: the parts differ in size
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1, 0, 1])}
    whole, split = tiny_model("tiny_roberta").double(), tiny_model("tiny_roberta").double()
    expected = whole(**batch).loss  # Hugging Face's mean over the rows
    expected.backward()
    loss = backward(split, batch, nullcontext, accumulate=accumulate)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # losses are summed in float32
    assert not loss.requires_grad
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


def test_in_a_regression_the_value_that_marks_ignored_tokens_counts_like_any_other() -> None:
    whole, split = Regression().double(), Regression().double()
    split.load_state_dict(whole.state_dict())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = {"x": x, "labels": torch.tensor([[-100.0], [1.0], [2.0], [-100.0], [5.0]], dtype=torch.float64)}
    expected = whole(**batch).loss
    expected.backward()
    assert backward(split, batch, nullcontext, accumulate=3).item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


def test_gradients_add_to_existing_ones() -> None:
    model, (batch,) = Regression(), regression_data(1)
    backward(model, batch, nullcontext)
    once = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    backward(model, batch, nullcontext)
    for parameter, grad in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def test_only_the_forward_pass_is_under_autocast() -> None:
    model, (batch,) = Regression(), regression_data(1)
    kinds: list[torch.dtype] = []
    model.linear.register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
    loss = backward(model, batch, lambda: torch.autocast("cpu", torch.bfloat16), accumulate=2)
    assert kinds == [torch.bfloat16] * 2
    assert loss.dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


# Resetting the optimizer state


def trained_optimizer(model: nn.Module) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for batch in regression_data(3):
        optimizer.zero_grad()
        backward(model, batch, nullcontext)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("reset", ["factors", "all"])
def test_reset_clears_the_state_of_replaced_or_all_parameters(reset: str) -> None:
    model = Regression()
    optimizer = trained_optimizer(model)
    kept = {name: value.clone() for name, value in optimizer.state[model.linear.bias].items()}
    reset_optimizer_state(optimizer, list(model.parameters())[:1], reset)
    assert len(kept) == 3 and all(value.any() for value in kept.values())  # step, exp_avg, exp_avg_sq
    assert not any(value.any() for value in optimizer.state[model.linear.weight].values())
    for name, value in optimizer.state[model.linear.bias].items():
        assert torch.equal(value, torch.zeros_like(value) if reset == "all" else kept[name])


@pytest.mark.parametrize("reset", ["factors", "all"])
def test_reset_before_the_first_step(reset: str) -> None:
    model = Regression()
    optimizer = torch.optim.AdamW(model.parameters())
    reset_optimizer_state(optimizer, list(model.parameters())[:1], reset)
    assert not optimizer.state[model.linear.weight]


def test_after_resetting_all_adamw_behaves_like_a_new_one() -> None:
    model, fresh_model = Regression(), Regression()
    optimizer = trained_optimizer(model)
    reset_optimizer_state(optimizer, [], "all")
    fresh_model.load_state_dict(model.state_dict())
    fresh = torch.optim.AdamW(fresh_model.parameters(), lr=0.1)
    for batch in regression_data(2):
        for net, one in ((model, optimizer), (fresh_model, fresh)):
            one.zero_grad()
            backward(net, batch, nullcontext)
            one.step()
        assert all(map(torch.equal, weights(model), weights(fresh_model)))


# The loop


@pytest.mark.parametrize("resets", [(), (3,), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize(("accumulate", "schedule"), [(1, "linear"), (2, "cosine")])
def test_fit_equals_a_loop_of_torch_and_transformers(
    accumulate: int, schedule: str, clip_norm: float | None, resets: tuple[int, ...]
) -> None:
    data, epochs, warmup = regression_data(4, rows=4), 2, 3
    model, reference = Regression(), Regression()
    reference.load_state_dict(model.state_dict())
    plan = recipe(
        warmup_steps=warmup, schedule=schedule, weight_decay=0.1, eps=0.1, clip_norm=clip_norm, accumulate=accumulate,
        reset="all",
    )  # fmt: skip
    run(model, Recorder(due=resets), Fixed(data), plan)

    def fresh() -> torch.optim.AdamW:
        return torch.optim.AdamW(reference.parameters(), lr=0.1, betas=(0.9, 0.98), eps=0.1, weight_decay=0.1)

    optimizer = fresh()
    fraction = their_schedule(schedule, total=4 * epochs, warmup=warmup)
    for step, batch in enumerate(data * epochs):
        if step in resets:  # the authors' code: a new AdamW, and the schedule goes on
            optimizer = fresh()
        optimizer.param_groups[0]["lr"] = 0.1 * fraction(step)
        optimizer.zero_grad()
        reference(**batch).loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), clip_norm)
        optimizer.step()
    for found, expected in zip(weights(model), weights(reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_fit_resamples_exactly_when_due_and_before_the_step() -> None:
    data, model, method = regression_data(3), Regression(), Recorder(due=(0, 2, 3, 7))
    start = weights(model)
    run(model, method, Fixed(data), recipe(epochs=3))
    assert method.asked == [(step, 3) for step in range(9)]
    assert list(method.resampled) == [0, 2, 3, 7]
    assert all(map(torch.equal, method.resampled[0], start))
    # The model at step 2 equals that of two training steps without a method.
    alone = Regression()
    alone.load_state_dict(dict(zip(model.state_dict(), start, strict=True)))
    with pytest.raises(IndexError):  # there is no context for the third forward pass
        run(alone, Recorder(), Fixed(data), recipe(epochs=3), autocast=([nullcontext()] * 2).pop)
    assert all(map(torch.equal, weights(alone), method.resampled[2]))


class Moments(Observer):
    """Records, after each change, whether the optimizer still has state for the weight and for the bias."""

    def __init__(self) -> None:
        self.left: list[tuple[bool, bool]] = []

    def on_method_change(self, training: Training, changed: Changed) -> None:  # noqa: ARG002 - a hook point
        model: Any = training.model
        states = (training.optimizer.state[parameter] for parameter in (model.linear.weight, model.linear.bias))
        weight, bias = (any(bool(value.any()) for value in state.values()) for state in states)
        self.left.append((weight, bias))


@pytest.mark.parametrize("reset", ["factors", "all"])
def test_fit_clears_the_optimizer_state_chosen_by_the_recipe(reset: str) -> None:
    watcher = Moments()
    run(
        Regression(), Recorder(due=(1, 2)), Fixed(regression_data(3)), recipe(epochs=1, reset=reset),
        observers=[watcher],
    )  # fmt: skip
    assert watcher.left == [(False, reset == "factors")] * 2


def test_observers_are_called_at_every_hook_point_in_order() -> None:
    first, second = Watcher(), Watcher()
    run(Regression(), Recorder(due=(1,)), Fixed(regression_data(2)), recipe(), observers=[first, second])
    assert first.calls == second.calls == [
        ("train start", 0),
        ("step start", 0), ("step end", 1), ("step start", 1), ("change", 1), ("step end", 2), ("epoch end", 2),
        ("step start", 2), ("step end", 3), ("step start", 3), ("step end", 4), ("epoch end", 4),
        ("train end", 4),
    ]  # fmt: skip


def test_observers_see_the_end_of_training_after_an_exception() -> None:
    def stop(_training: Training) -> None:
        raise KeyboardInterrupt

    watcher = Watcher(stop)
    with pytest.raises(KeyboardInterrupt):
        run(Regression(), Recorder(), Fixed(regression_data(2)), recipe(), observers=[watcher])
    assert watcher.calls[-2:] == [("step end", 1), ("train end", 1)]


# What else a method may do besides training a fixed set of parameters


@dataclass(frozen=True, kw_only=True)
class Penalised(Recorder):
    """Adds half the squared norm of the weight to the loss, and one to the bias's gradient: Adam ignores a factor."""

    def penalty(self, model: Any) -> Tensor:
        return model.linear.weight.square().sum() / 2

    def after_backward(self, model: Any) -> None:
        model.linear.bias.grad.add_(1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_penalty_is_minimised_but_not_reported(accumulate: int) -> None:
    data, model, reference = regression_data(3, rows=4), Regression(), Regression()
    reference.load_state_dict(model.state_dict())
    history = run(model, Penalised(), Fixed(data), recipe(epochs=1, accumulate=accumulate))
    optimizer = torch.optim.AdamW(reference.parameters(), betas=(0.9, 0.98), eps=1e-6, weight_decay=0)
    losses = []
    for step, batch in enumerate(data):
        loss = reference(**batch).loss
        (loss + reference.linear.weight.square().sum() / 2).backward()
        assert reference.linear.bias.grad is not None
        reference.linear.bias.grad.add_(1)
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-6)
    assert history[0].train_loss == pytest.approx(sum(losses) / 3, rel=1e-5)


@dataclass(frozen=True, kw_only=True)
class TwoRates(Recorder):
    """Trains the bias at three times the learning rate of the weight."""

    def parameter_groups(self, model: Any) -> Groups:
        return [{"params": [model.linear.weight]}, {"params": [model.linear.bias], "lr_scale": 3.0}]


def test_each_group_scales_the_scheduled_learning_rate() -> None:
    data, model, reference = regression_data(4), Regression(), Regression()
    reference.load_state_dict(model.state_dict())
    run(model, TwoRates(), Fixed(data), recipe(epochs=1, schedule="cosine", weight_decay=0.1))
    optimizer = torch.optim.AdamW(
        [{"params": [reference.linear.weight]}, {"params": [reference.linear.bias]}],
        betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1,
    )  # fmt: skip
    fraction = their_schedule("cosine", total=4, warmup=0)
    for step, batch in enumerate(data):
        for group, scale in zip(optimizer.param_groups, (1, 3), strict=True):
            group["lr"] = 0.1 * scale * fraction(step)
        optimizer.zero_grad()
        reference(**batch).loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True, kw_only=True)
class RatesInTensors(Recorder):
    """Its optimizer reads learning rates from tensors and keeps its step on the device, as on a GPU."""

    fused: bool = False

    def parameter_groups(self, model: Any) -> Groups:
        return [{"params": list(model.parameters()), "lr_scale": 2.0}]

    def optimizer(self, groups: Groups, configured: Any) -> torch.optim.Optimizer:  # noqa: ARG002
        lr = torch.tensor(0.1)
        return torch.optim.AdamW(groups, lr, betas=(0.9, 0.98), eps=1e-6, capturable=True, fused=self.fused)


def test_each_learning_rate_is_on_the_device_of_its_parameters() -> None:
    """Or a step would read a copy that has not arrived yet. The meta device stands for a GPU."""
    model = Regression()
    model.linear.weight = nn.Parameter(model.linear.weight.to("meta"))
    training = Training(model, RatesInTensors(), recipe(), steps_per_epoch=1, device=CPU)
    groups = training.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]
    assert [group["lr"].device for group in groups] == [group["params"][0].device for group in groups]
    assert [group["lr_scale"] for group in groups] == [2.0, 2.0]
    training.set_lr(0.5)
    assert groups[1]["lr"].item() == 1.0
    assert (
        len(Training(Regression(), RatesInTensors(), recipe(), steps_per_epoch=1, device=CPU).optimizer.param_groups)
        == 1
    )


def test_a_step_on_the_cpu_can_read_its_rate_from_a_tensor() -> None:
    """So do weights that are trained in the CPU's memory beside others on a GPU."""
    data, model, reference = regression_data(4), Regression(), Regression()
    reference.load_state_dict(model.state_dict())
    run(model, RatesInTensors(fused=True), Fixed(data), recipe(epochs=2, lr=0.05))
    run(reference, Recorder(), Fixed(data), recipe(epochs=2, lr=0.1, weight_decay=0.01))
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True, kw_only=True)
class Descent(Recorder):
    """Makes its own optimizer."""

    def optimizer(self, groups: Groups, configured: Any) -> torch.optim.Optimizer:  # noqa: ARG002
        return torch.optim.SGD(groups, lr=1.0)


def test_a_method_may_bring_its_own_optimizer() -> None:
    data, model, reference = regression_data(3), Regression(), Regression()
    reference.load_state_dict(model.state_dict())
    run(model, Descent(), Fixed(data), recipe(epochs=1, schedule="constant"))
    for batch in data:
        reference.zero_grad()
        reference(**batch).loss.backward()
        with torch.no_grad():
            for parameter in reference.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.1 * parameter.grad)
    torch.testing.assert_close(weights(model), weights(reference))


@dataclass(frozen=True, kw_only=True)
class Alternating(Recorder):
    """Trains the weight in even steps and the bias in odd ones."""

    def before_step(self, model: Any, step: int, **_known: Any) -> Changed:
        model.linear.weight.requires_grad_(step % 2 == 0)
        model.linear.bias.requires_grad_(step % 2 == 1)
        return Changed(retrain=True)


def test_parameters_that_stop_training_stay_fixed_and_lose_their_optimizer_state() -> None:
    model = Regression()
    seen: list[tuple[list[Tensor], int]] = []

    def note(training: Training) -> None:
        seen.append((weights(model), len(training.optimizer.state)))

    method = Alternating(due=tuple(range(4)))
    run(model, method, Fixed(regression_data(4)), recipe(epochs=1), observers=[Watcher(note)])
    for step in range(1, 4):
        (weight, bias), (before, bias_before) = seen[step][0], seen[step - 1][0]
        assert torch.equal(weight, before) == (step % 2 == 1)
        assert torch.equal(bias, bias_before) == (step % 2 == 0)
    assert [states for _, states in seen] == [1] * 5


def test_method_changes_are_counted() -> None:
    counts: list[int | None] = []
    watcher = Watcher(lambda training: counts.append(training.resamples))
    run(Regression(), Recorder(due=(1, 3)), Fixed(regression_data(4)), recipe(epochs=1), observers=[watcher])
    assert counts == [0, 1, 1, 2, 2]


def test_fit_reports_each_epoch() -> None:
    data, model, batches = regression_data(3), Regression(), Fixed(regression_data(3))
    scores: list[Scores] = [{"loss": 3.0, "accuracy": 0.1}, {"loss": 2.0, "accuracy": 0.2}]
    watcher = Watcher()

    def evaluate() -> Scores:
        model.eval()  # like predict: the loop must switch back to training mode
        return scores[len(watcher.epochs)]

    history = run(model, Recorder(), batches, recipe(lr=1e-30), evaluate=evaluate, observers=[watcher])
    assert batches.given == [0, 0, 0, 1, 1, 1]
    assert watcher.epochs == list(enumerate(history))
    assert [epoch.scores for epoch in history] == scores
    assert 0 < history[0].time_s <= history[1].time_s
    assert model.modes == [True] * 6
    # At this learning rate the model does not move, so each epoch's loss is the mean over the batches.
    expected = sum(model(**batch).loss.item() for batch in data) / 3
    assert [epoch.train_loss for epoch in history] == pytest.approx([expected] * 2)


def test_fit_measures_its_phases() -> None:
    meter = Meter(CPU)
    run(Regression(), Recorder(due=(1,)), Fixed(regression_data(2)), recipe(), meter=meter)
    assert set(meter.time_s) == set(meter.memory_bytes) == {"train", "resample", "evaluate"}


def test_frozen_parameters_stay_fixed_and_get_no_gradient() -> None:
    model = Regression()
    model.linear.bias.requires_grad_(False)
    weight, bias = weights(model)
    run(model, Recorder(), Fixed(regression_data(2)), recipe(weight_decay=0.1))
    assert torch.equal(model.linear.bias, bias) and model.linear.bias.grad is None
    assert not torch.equal(model.linear.weight, weight)


@pytest.mark.parametrize("method", ["rosa", "lora"])
def test_equal_seeds_give_bit_identical_runs(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], method: str
) -> None:
    def trained(seed: int) -> tuple[list[Tensor], list[float]]:
        config = compose("task=grammar", "model=tiny_roberta", f"method={method}", "rank=2", f"seed={seed}")
        model = tiny_model("tiny_roberta")
        torch.manual_seed(seed)  # dropout
        config.method.attach(model)
        texts = [[0, *range(10, 13 + row % 3), 2] for row in range(12)]
        tokens, labels = Tokens.of({"input_ids": texts}), torch.tensor([0, 1] * 6)
        batches = TokenBatches(tokens, labels, fills={"input_ids": 1}, longest=32, batch_size=4, seed=seed)
        history = run(model, config.method, batches, recipe(lr=1e-2, epochs=3, reset="all"))
        return weights(model), [epoch.train_loss for epoch in history]

    (first, losses), (again, losses_again), (other, losses_other) = trained(0), trained(0), trained(1)
    assert all(map(torch.equal, first, again)) and losses == losses_again
    assert not all(map(torch.equal, first, other)) and losses != losses_other


# Resuming


@pytest.mark.parametrize("reset", ["factors", "all"])
@pytest.mark.parametrize("broken_off_after", range(8))
def test_resuming_from_a_saved_state_gives_the_same_result(broken_off_after: int, reset: str) -> None:
    # Six steps and two epoch ends give eight points to save at.
    data, plan = regression_data(3), recipe(warmup_steps=2, weight_decay=0.1, reset=reset)
    saved: list[tuple[int, int, Snapshot]] = []

    def between(training: Training) -> None:
        state = training.state
        copies = {name: tensor.clone() for name, tensor in state.tensors.items()}
        saved.append((training.step, len(training.history), Snapshot(copies, json.loads(json.dumps(state.values)))))

    start = Regression().state_dict()
    ends = []
    for place in (None, broken_off_after):
        model, method, batches = Regression(), Recorder(due=(2, 4)), Fixed(data)
        model.load_state_dict(start)
        watcher = Watcher(between) if place is None else Watcher()
        start_from = None if place is None else saved[place][2]
        history = run(model, method, batches, plan, observers=[watcher], start=start_from)
        losses = [epoch.train_loss for epoch in history]
        ends.append((weights(model), losses))
        if place is not None:
            step, epochs, _ = saved[place]
            assert [asked for asked, _ in method.asked] == list(range(step, 6))
            assert watcher.epochs == list(enumerate(history))[epochs:]
            assert len(method.resampled) == sum(step <= due for due in (2, 4))
            assert len(batches.given) == 6 - step
    assert [(step, epochs) for step, epochs, _ in saved] == [
        (1, 0), (2, 0), (3, 0), (3, 1), (4, 1), (5, 1), (6, 1), (6, 2),
    ]  # fmt: skip
    assert all(map(torch.equal, ends[0][0], ends[1][0]))
    assert ends[0][1] == ends[1][1]


def test_a_nan_loss_before_an_interruption_is_found_on_resume() -> None:
    data = regression_data(3)
    data[0]["labels"] = torch.full((2, 1), math.nan)
    saved: list[Snapshot] = []

    def between(training: Training) -> None:
        saved.append(training.state)
        raise KeyboardInterrupt

    model = Regression()
    with pytest.raises(KeyboardInterrupt):
        run(model, Recorder(), Fixed(data), recipe(epochs=1), observers=[Watcher(between)])
    with pytest.raises(TrainingFailedError, match=r"training loss is nan at step 1$"):
        run(model, Recorder(), Fixed(data), recipe(epochs=1), start=saved[0])


# Losses that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(step: int, bad: float) -> None:
    data = regression_data(6)  # one epoch: each batch is a step
    data[step - 1]["labels"] = torch.full((2, 1), bad)
    with pytest.raises(TrainingFailedError, match=rf"training loss is (nan|inf) at step {step}$"):
        run(Regression(), Recorder(), Fixed(data), recipe(epochs=1))


def test_steps_are_counted_over_epochs() -> None:
    data = regression_data(3)
    batches = Fixed(data)

    def evaluate() -> Scores:
        data[1] = {**data[1], "labels": torch.full((2, 1), math.nan)}
        return {"loss": 0.0}

    with pytest.raises(TrainingFailedError, match=r"at step 5$"):
        run(Regression(), Recorder(), batches, recipe(epochs=3), evaluate=evaluate)
    assert batches.given == [0, 0, 0, 1, 1, 1]  # no third epoch


def test_the_progress_bar_detects_a_bad_loss_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingProgress, "due", lambda _self: True)
    bar = TrainingProgress(epochs=1, steps_per_epoch=6, batch_size=2)
    data = regression_data(6)
    data[2]["labels"] = torch.full((2, 1), math.nan)
    batches = Fixed(data)
    with pytest.raises(TrainingFailedError, match=r"at step 3$"):
        run(Regression(), Recorder(), batches, recipe(epochs=1), observers=[bar])
    assert len(batches.given) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_evaluation_loss_that_is_not_finite(bad: float) -> None:
    with pytest.raises(TrainingFailedError, match=rf"evaluation loss is {bad} after epoch 1$"):
        run(Regression(), Recorder(), Fixed(regression_data(2)), recipe(), evaluate=lambda: {"loss": bad})


def test_a_loss_that_is_not_finite_before_a_resample_within_the_epoch() -> None:
    model, data = Regression(inputs=3, outputs=4), regression_data(6)
    data[1]["labels"] = torch.full((2, 1), math.nan)
    method = low_rank(Rosa, select="random", init="svd", resample_every=3, resample_unit="steps")
    method.attach(model)
    with pytest.raises(TrainingFailedError, match=r"training loss is nan at step 2$"):
        run(model, method, Fixed(data), recipe(epochs=1))


@dataclass(frozen=True, kw_only=True)
class Halving(Recorder):
    """Halves the learning rate in the second half of the run."""

    def lr_factor(self, step: int, length: RunLength) -> float:
        return 0.5 if step >= length.total_steps / 2 else 1.0


def test_a_methods_factor_multiplies_the_scheduled_learning_rate() -> None:
    rates: list[float] = []
    plan = recipe(lr=0.1, epochs=2, schedule="constant")
    run(Regression(), Halving(), Fixed(regression_data(3)), plan, observers=[Watcher(lambda it: rates.append(it.lr))])
    each = [rates[0], *rates[1:3], *rates[4:7]]  # an epoch's end follows its last step
    assert each == [0.1] * 3 + [0.05] * 3


@dataclass(frozen=True, kw_only=True)
class Asking(Recorder):
    """Asks for the coming batch's loss."""

    losses: list[Tensor] = field(default_factory=list)

    def before_step(self, model: nn.Module, step: int, **known: Any) -> Changed:  # noqa: ARG002
        self.losses.append(known["loss"]())
        return Changed(draws=3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_method_gets_the_loss_of_the_coming_batch_or_of_its_first_part(accumulate: int) -> None:
    model, data, method, counts = Regression(), regression_data(3, rows=4), Asking(due=(0, 2)), []
    plan = recipe(lr=0.0, epochs=1, accumulate=accumulate)
    run(model, method, Fixed(data), plan, observers=[Watcher(lambda training: counts.append(training.resamples))])
    rows = 4 // accumulate
    expected = [model(**{key: tensor[:rows] for key, tensor in data[step].items()}).loss for step in (0, 2)]
    torch.testing.assert_close(method.losses, expected)
    assert all(loss.requires_grad for loss in method.losses)
    assert counts[-1] == 6  # draws, not changes


def test_checked_counts_from_one() -> None:
    assert checked(torch.tensor([0.5, 2.0]), first_step=7) == [0.5, 2.0]
    with pytest.raises(TrainingFailedError, match=r"is inf at step 9$"):
        checked(torch.tensor([0.5, math.inf, math.nan]), first_step=7)


# The purpose of ROSA


def low_rank(kind: type[Lora | Rosa], **settings: Any) -> Method:
    return kind(
        name="low_rank", title="", seed=0, head="head", default_lr={}, targets="linear", attention="linear",
        train_head=False, train_biases=False, rank=1, **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "reaches"),
    [
        (low_rank(Lora, alpha=1, init="kaiming"), False),
        (low_rank(Rosa, select="random", init="svd", resample_every=0, resample_unit="steps"), False),
        (low_rank(Rosa, select="random", init="svd", resample_every=25, resample_unit="steps"), True),
    ],
    ids=["lora", "never_resampled", "rosa"],
)
def test_rosa_fits_a_target_that_no_low_rank_update_can(method: Method, reaches: bool) -> None:
    # Theorem 2 of the paper: rank-1 ROSA solves a least-squares problem. An update of rank k leaves at least the error
    # of the best one: the sum of squares of all but the k largest singular values (Eckart-Young).
    size = 4
    model = Regression(size, size)
    target = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(5))).Q
    inputs = torch.eye(size)
    batch = {
        "x": inputs,
        "labels": (model.linear(inputs) + inputs @ target).detach(),
    }  # the weight must change by ``target``
    values = torch.linalg.svdvals(target)  # all are 1
    bound = {rank: values[rank:].square().sum().item() / size**2 for rank in (1, 2)}
    method.attach(model)
    run(model, method, Fixed([batch]), recipe(lr=0.05, epochs=400, reset="factors"))
    error = model(**batch).loss.item()
    if reaches:
        assert error < 0.01 * bound[2]
    else:
        layer = model.linear
        assert isinstance(layer, LowRankLinear)
        # LoRA's update has rank 1; without resampling, ROSA's A' B' - A B has rank 2.
        assert error > 0.999 * (bound[1] if isinstance(method, Lora) else bound[2])
