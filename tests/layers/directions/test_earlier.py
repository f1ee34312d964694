"""Draws along the singular directions of an earlier weight (method.svd_of)."""

import copy
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.directions import earlier
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.methods.base import RunLength
from rosa_bench.system.errors import UserError
from rosa_bench.training.cuda_graphs import Replayed, replaying
from rosa_bench.training.loop import optimisation
from rosa_bench.training.state import Recipe, Training

RANK, PERIOD, STEPS = 2, 4, 12
LENGTH = RunLength(STEPS, 1)
Make = Callable[..., Training]


@pytest.fixture
def training(compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel]) -> Make:
    """A small RoBERTa that trains with ROSA and draws every four steps. Some of its weights are wide, some tall."""

    def make(svd_of: str, *, device: str = "cpu", dtype: torch.dtype = torch.float64, **changes: Any) -> Training:
        config = compose("task=grammar", "model=tiny_roberta", "method=rosa", f"rank={RANK}")
        settings = {"resample_every": float(PERIOD), "resample_unit": "steps", "targets": "all-linear", **changes}
        method = replace(config.method, svd_of=svd_of, **settings)  # pyrefly: ignore[bad-argument-type, unexpected-keyword]
        net = tiny_model("tiny_roberta").to(device, dtype)  # pyrefly: ignore[bad-argument-type]
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(device), alpha=0.2)
        method.attach(net)
        recipe = Recipe(lr=1e-2, epochs=1, warmup_steps=0, optimizer=config.optimizer, accumulate=1, reset="factors")
        return Training(net, method, recipe, steps_per_epoch=STEPS, device=torch.device(device))

    return make


def batch(number: int, *, length: int = 10, device: str = "cpu") -> dict[str, Tensor]:
    ids = torch.randint(5, 261, (4, length), generator=torch.Generator().manual_seed(number))
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1, 0])}
    return {name: tensor.to(device) for name, tensor in whole.items()}


def run(training: Training, until: int = STEPS, *, at_draw: Callable[[], None] = lambda: None) -> Training:
    """Train as the loop does, from where it is. ``at_draw`` is called just before each draw."""
    optimise = optimisation(training, nullcontext)
    training.method.before_epoch(training.model, 0)
    while training.step < until:
        if training.method.is_due(training.step, LENGTH):
            at_draw()
            training.follow(training.method.before_step(training.model, training.step, length=LENGTH))
        optimise(batch(training.step))
        training.step += 1
    return training


def weights(model: nn.Module) -> list[Tensor]:
    return [layer.merged_weight().detach().clone() for layer in low_rank_layers(model)]


def is_singular(rows: Tensor, weight: Tensor) -> bool:
    """Whether each row is a right singular vector of the weight, or its opposite, by LAPACK's SVD."""
    cosines = (rows @ torch.linalg.svd(weight, full_matrices=False).Vh.mT).abs()
    return torch.allclose(cosines.amax(-1), torch.ones(len(rows), dtype=rows.dtype), atol=1e-9)


@pytest.mark.parametrize(("svd_of", "age"), [("current", 0), ("previous", 1), ("initial", None)])
def test_directions_are_those_of_the_weight_that_was_named(training: Make, svd_of: str, age: int | None) -> None:
    made = training(svd_of)
    drawn = [weights(made.model)]  # the weights at each draw, the first of them before training
    subspaces = [[layer.b.detach().clone() for layer in low_rank_layers(made.model)]]
    for step in (4, 8):
        run(made, step)
        drawn.append(weights(made.model))
        made.follow(made.method.before_step(made.model, step, length=LENGTH))
        subspaces.append([layer.b.detach().clone() for layer in low_rank_layers(made.model)])
        right = 0 if age is None else len(drawn) - 1 - age
        for number, layer in enumerate(low_rank_layers(made.model)):
            found = layer.b.detach()
            assert [is_singular(found, each[number]) for each in drawn] == [at == right for at in range(len(drawn))]
            torch.testing.assert_close(layer.merged_weight(), drawn[-1][number], rtol=0, atol=1e-12)
        made.step += 1  # this draw is made
    for one, other in ((0, 1), (1, 2)):
        assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(subspaces[one], subspaces[other], strict=True))


def test_the_first_subspace_is_that_of_an_ordinary_run(training: Make) -> None:
    plain, *others = (training(svd_of, targets="attention") for svd_of in ("current", "previous", "initial"))
    for other in others:
        for one, two in zip(low_rank_layers(plain.model), low_rank_layers(other.model), strict=True):
            torch.testing.assert_close(two.a @ two.b, one.a @ one.b, rtol=0, atol=1e-9)


def test_when_the_thread_finishes_changes_no_bit(training: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(training("previous")).state.tensors
    may_go, real = threading.Event(), earlier.singular_directions

    def held(*arguments: Tensor) -> Tensor:
        assert may_go.wait(60)
        return real(*arguments)

    def let_go() -> None:
        assert not any(future_of(layer).done() for layer in low_rank_layers(made.model))  # steps did not wait
        may_go.set()
        for layer in low_rank_layers(made.model):
            future_of(layer).result()
        may_go.clear()

    def future_of(layer: Any) -> Any:
        return earlier.drawn_of(layer).coming

    monkeypatch.setattr(earlier, "singular_directions", held)
    made = training("previous")
    try:
        found = run(made, at_draw=let_go).state.tensors
    finally:
        may_go.set()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_directions_that_were_sought_before_a_load_are_not_used(training: Make) -> None:
    straight = run(training("previous"), 6)
    state = copy.deepcopy(straight.state)
    resumed = training("previous")
    resumed.method.before_epoch(resumed.model, 0)  # of the first weights
    resumed.state = state
    for name, tensor in run(straight).state.tensors.items():
        assert torch.equal(run(resumed).state.tensors[name], tensor), name


@pytest.mark.parametrize("how", ["assigned", "data"])
def test_directions_of_tensors_that_were_replaced_are_not_used(training: Make, how: str) -> None:
    """Tensors in their place may have the version that these had."""
    made, other = run(training("previous"), 6), run(training("previous", seed=1), 6)
    expected = earlier.upcoming(low_rank_layers(other.model))
    earlier.upcoming(low_rank_layers(made.model))
    if how == "assigned":
        made.model.load_state_dict(other.model.state_dict(), assign=True)
    else:
        state = other.model.state_dict()
        for name, tensor in made.model.state_dict(keep_vars=True).items():
            tensor.data = state[name].clone()
    for found, wanted in zip(earlier.upcoming(low_rank_layers(made.model)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_model_is_copied_while_its_directions_are_sought(training: Make) -> None:
    made = run(training("previous"), 6)
    copied = copy.deepcopy(made.model)
    for one, other in zip(low_rank_layers(made.model), low_rank_layers(copied), strict=True):
        assert earlier.drawn_of(other).coming is None
        torch.testing.assert_close(earlier.upcoming([other])[0], earlier.upcoming([one])[0], rtol=0, atol=0)


def test_an_error_in_the_thread_is_raised_at_the_draw(training: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Tensor) -> Tensor:
        raise MemoryError("no memory in the thread")

    monkeypatch.setattr(earlier, "singular_directions", fails)
    with pytest.raises(MemoryError, match="in the thread"):
        run(training("previous"))


def test_a_weight_that_is_not_finite_is_reported(training: Make) -> None:
    made = training("initial")
    low_rank_layers(made.model)[0].residual[0, 0] = math.nan
    with pytest.raises(ValueError, match="contains NaN or Inf"):
        earlier.keep_directions(low_rank_layers(made.model))


@pytest.mark.parametrize(
    ("svd_of", "every", "step", "age"),
    [
        ("current", 4, 12, None),
        ("previous", 4, 12, 4),
        ("previous", 4, 4, None),  # no draw is made yet
        ("previous", 4, 5, 4),
        ("initial", 4, 12, 8),
        ("initial", 5, 12, 10),
    ],
)
def test_the_age_of_the_directions_is_known(
    compose: Callable[..., RunConfig], svd_of: str, every: float, step: int, age: int | None
) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa").method
    method = replace(method, svd_of=svd_of, resample_every=every, resample_unit="steps")  # pyrefly: ignore[unexpected-keyword]
    assert method.basis_age(step, LENGTH) == age


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.basis=random",), "svd_of=initial needs method.basis=svd"),
        (("method.stagger=true",), "stagger=true replaces one direction"),
        (("method.init=balanced",), "init=balanced needs the current weight's"),
        (("method.resample_every=0",), "resample_every=0 makes none"),
    ],
)
def test_senseless_combinations_are_refused(
    compose: Callable[..., RunConfig], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose("task=grammar", "model=tiny_roberta", "method=rosa", "method.svd_of=initial", *overrides)


# With a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("svd_of", ["previous", "initial"])
def test_captured_steps_equal_eager_ones_while_directions_are_sought(
    training: Make, monkeypatch: pytest.MonkeyPatch, svd_of: str
) -> None:
    real = earlier._copied

    def busy(layer: Any) -> tuple[Tensor, Tensor]:
        for _ in range(50):  # copies from the GPU during warm-ups and captures, for as long as tiny weights allow
            real(layer)
        return real(layer)

    monkeypatch.setattr(earlier, "_copied", busy)
    losses: dict[str, list[float]] = {}
    for choice in ("never", "auto"):
        made = training(svd_of, device="cuda", dtype=torch.float32, targets="attention")
        torch.manual_seed(5)
        found = []
        with replaying(made.device, choice) as replay, materialised(made.model):
            step = replay(optimisation(made, nullcontext))
            made.method.before_epoch(made.model, 0)
            for number in range(3 * STEPS):
                if number and number % PERIOD == 0:
                    made.follow(made.method.before_step(made.model, number, length=RunLength(3 * STEPS, 1)))
                found.append(step(batch(number, length=(8, 10, 12)[number % 3], device="cuda")))
        losses[choice] = torch.stack(found).tolist()
        if choice == "auto":
            assert isinstance(step, Replayed) and len(step.recorded) == 3 and not step.plain
    assert losses["auto"] == pytest.approx(losses["never"], rel=1e-4)
