"""Laws of every method that draws its factors again, with every allowed combination of settings."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.resampled import Resampled
from rosa_bench.methods.rosa import Rosa
from rosa_bench.system.errors import UserError
from rosa_bench.training.state import Recipe, Training

RANK, SIZE, LAYERS = 2, 32, 8  # eight attention layers of 32 x 32
LENGTH = RunLength(10, 2)
EVERY: dict[str, Any] = {"resample_every": 4.0, "resample_unit": "steps"}

Attach = Callable[..., tuple[PreTrainedModel, Any]]
CHOICES = {
    "init": ("svd", "zero", "balanced"),
    "basis": ("svd", "random", "gradient"),
    "train": ("both", "a"),
    "stagger": (False, True),
    "moments": ("reset", "rotate"),
}


def is_allowed(basis: str, init: str, train: str, stagger: bool, moments: str) -> bool:
    """Whether a combination makes sense. Written out here, not asked of the code."""
    if init == "balanced" and (basis != "svd" or moments == "rotate"):
        return False
    if stagger and (basis == "gradient" or moments == "rotate"):
        return False
    return moments == "reset" or train == "a"


EACH: list[dict[str, Any]] = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
ALLOWED = [each for each in EACH if is_allowed(**each)]
REFUSED = [each for each in EACH if not is_allowed(**each)]
PLAIN = {name: values[0] for name, values in CHOICES.items()}
ROTATED = {**PLAIN, "init": "zero", "train": "a", "moments": "rotate"}
VARIANTS = [
    *(("rosa", each) for each in ALLOWED),
    *(("rosa", {**each, "svd_of": svd_of}) for each in (PLAIN, ROTATED) for svd_of in ("previous", "initial")),
    *((method, {"init": init, "alpha": 3.0}) for method in ("lora", "lora_plus") for init in ("kaiming", "normal")),
    ("lora", {"init": "uniform", "alpha": 3.0}),
    *(("switch_lora", {"init": init, "alpha": 3.0, "decay": 0.0}) for init in ("kaiming", "uniform")),
]
DRAWS = {"switch_lora": 9}  # in 10 steps: 2 factors of 2 vectors in each period of 4 steps


def name_of(case: Any) -> str:
    return "-".join(str(value) for value in case.values()) if isinstance(case, dict) else str(case)


each_variant = pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=name_of)


@pytest.fixture
def attach(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> Attach:
    """A small RoBERTa in float64 whose weights are so large that a change affects the output."""

    def make(method: str, **changes: Any) -> tuple[PreTrainedModel, Any]:
        chosen = compose("task=grammar", "model=tiny_roberta", f"method={method}", f"rank={RANK}").method
        net = roughened(tiny_model("tiny_roberta").double())
        chosen = replace(chosen, **EVERY | changes)
        chosen.attach(net)
        return net, chosen

    return make


def batch(seed: int = 2) -> dict[str, Tensor]:
    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1, 0])}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def merged(model: nn.Module) -> list[Tensor]:
    return [layer.merged_weight().detach().clone() for layer in low_rank_layers(model)]


def training_of(net: nn.Module, method: Resampled, compose: Callable[..., RunConfig]) -> Training:
    optimizer = replace(compose("task=grammar", "model=tiny_roberta").optimizer, weight_decay=0.0)
    recipe = Recipe(lr=1e-2, epochs=2, warmup_steps=0, optimizer=optimizer, accumulate=1, reset="factors")
    return Training(net, method, recipe, steps_per_epoch=10, device=torch.device("cpu"))


def step(training: Training) -> None:
    training.model(**batch(training.step)).loss.backward()
    training.method.after_backward(training.model)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.step += 1


def draw(training: Training) -> Any:
    coming = batch(training.step)
    changed = training.method.before_step(
        training.model, training.step, length=LENGTH, loss=lambda: training.model(**coming).loss
    )
    training.follow(changed)
    return changed


# What a draw keeps


@each_variant
def test_draws_keep_the_function_inside_the_same_tensors(
    attach: Attach, compose: Callable[..., RunConfig], name: str, settings: dict[str, Any]
) -> None:
    net, method = attach(name, **settings)
    plain, _ = attach("lora", init="kaiming")  # W + 0
    torch.testing.assert_close(logits(net), logits(plain), rtol=0, atol=1e-9)
    torch.testing.assert_close(merged(net), merged(plain), rtol=0, atol=1e-12)
    training = training_of(net, method, compose)
    tensors = [tensor for layer in low_rank_layers(net) for tensor in (layer.residual, layer.a, layer.b)]
    places = [(id(tensor), tensor.data_ptr()) for tensor in tensors]
    names = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    drawn = 0
    while training.step < 10:
        if method.is_due(training.step, LENGTH):
            before = (
                logits(net),
                merged(net),
                [(it.a.detach().clone(), it.b.detach().clone()) for it in low_rank_layers(net)],
            )
            draw(training)
            torch.testing.assert_close(logits(net), before[0], rtol=0, atol=1e-9)
            torch.testing.assert_close(merged(net), before[1], rtol=0, atol=1e-12)
            for layer, (a, b) in zip(low_rank_layers(net), before[2], strict=True):
                assert not (torch.equal(layer.a, a) and torch.equal(layer.b, b))
            drawn += training.step > 0
        step(training)
    assert drawn == DRAWS.get(name, 4 if settings.get("stagger") else 2)
    assert training.resamples == drawn
    assert [(id(tensor), tensor.data_ptr()) for tensor in tensors] == places
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == names
    assert all(parameter.is_leaf and parameter.grad is None for parameter in net.parameters())
    # Directions that were drawn in all; an exchange draws one vector.
    directions = RANK + (drawn if name in DRAWS else drawn * RANK // method.draws_per_period)
    taken = settings["init"] in {"svd", "balanced"} and (settings["train"] == "both" or settings["stagger"])
    twice = taken or settings["init"] == "uniform"  # what is drawn is taken from the weight
    for layer, start in zip(low_rank_layers(net), merged(plain), strict=True):
        change = layer.merged_weight() - start
        assert 0 < torch.linalg.matrix_rank(change) <= (2 if twice else 1) * directions


@each_variant
def test_the_number_of_trained_parameters(attach: Attach, name: str, settings: dict[str, Any]) -> None:
    net, method = attach(name, **settings, train_head=False, train_biases=False)
    trained = {key for key, parameter in net.named_parameters() if parameter.requires_grad}
    factors = 1 if settings.get("train") == "a" else 2
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == factors * LAYERS * RANK * SIZE
    assert {key.rpartition(".")[2] for key in trained} == ({"a"} if factors == 1 else {"a", "b"})
    assert sum(len(group["params"]) for group in method.parameter_groups(net)) == factors * LAYERS


@pytest.mark.slow
@each_variant
def test_the_state_restores_a_model_in_the_middle_of_a_run(
    attach: Attach, compose: Callable[..., RunConfig], name: str, settings: dict[str, Any]
) -> None:
    def run(training: Training, until: int) -> None:
        while training.step < until:
            if training.method.is_due(training.step, LENGTH):
                draw(training)
            step(training)

    straight = training_of(*attach(name, **settings), compose)
    run(straight, 6)
    torch.manual_seed(5)
    kept = straight.state
    kept = type(kept)({key: tensor.clone() for key, tensor in kept.tensors.items()}, kept.values)
    resumed = training_of(*attach(name, **settings), compose)
    resumed.state = kept
    run(straight, 11)
    run(resumed, 11)
    for one, other in zip(straight.state.tensors.items(), resumed.state.tensors.items(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1]), one[0]
    assert straight.resamples == resumed.resamples


# Ranks of the update


@pytest.mark.parametrize(
    ("name", "settings", "bounds"),
    [
        # A' B' - A B has rank 2 r, and every draw adds as much again.
        ("rosa", {"init": "svd"}, (5, 8)),
        ("rosa", {"init": "balanced"}, (5, 8)),
        ("rosa", {"init": "zero"}, (3, 4)),  # A' B' alone
        ("rosa", {"init": "svd", "basis": "random"}, (5, 8)),
        ("rosa", {"init": "svd", "train": "a"}, (3, 4)),  # (A' - A) B
        ("rosa", {"init": "svd", "basis": "random", "train": "a", "moments": "rotate"}, (3, 4)),
        ("lora", {"init": "kaiming"}, (3, 4)),
        ("lora", {"init": "normal"}, (3, 4)),
    ],
    ids=name_of,
)
def test_the_rank_of_the_update_after_one_draw(
    attach: Attach, compose: Callable[..., RunConfig], name: str, settings: dict[str, Any], bounds: tuple[int, int]
) -> None:
    net, method = attach(name, **settings)
    original, training = merged(net), training_of(net, method, compose)
    for _ in range(4):
        step(training)
    draw(training)
    for _ in range(4):
        step(training)
    for after, before in zip(merged(net), original, strict=True):
        assert bounds[0] <= torch.linalg.matrix_rank(after - before, atol=1e-9, rtol=0.0) <= bounds[1]


# Moments


def test_staggering_replaces_one_direction_and_keeps_the_moments_of_the_others(
    attach: Attach, compose: Callable[..., RunConfig]
) -> None:
    net, method = attach("rosa", stagger=True)
    training = training_of(net, method, compose)
    assert method.due_steps(LENGTH) == list(range(2, 20, 2))  # the period of 4 steps over 2 directions
    for due, replaced in ((2, 0), (4, 1), (6, 0)):
        while training.step < due:
            step(training)
        kept = 1 - replaced
        layers = low_rank_layers(net)
        before = [(it.a[:, kept].clone(), it.b[kept].clone()) for it in layers]
        states = [{k: v.clone() for k, v in training.optimizer.state[p].items()} for it in layers for p in it.factors]
        draw(training)
        for layer, (a, b) in zip(layers, before, strict=True):
            assert torch.equal(layer.a[:, kept], a) and torch.equal(layer.b[kept], b)
        for parameter, state in zip([p for it in layers for p in it.factors], states, strict=True):
            dim = -1 if parameter.shape[-1] == RANK else -2
            for key in ("exp_avg", "exp_avg_sq"):
                found = training.optimizer.state[parameter][key]
                assert not found.select(dim, replaced).any()
                assert torch.equal(found.select(dim, kept), state[key].select(dim, kept))
                assert found.any()
            assert training.optimizer.state[parameter]["step"] == state["step"]


def test_a_period_shorter_than_the_rank_draws_several_directions_before_a_step(attach: Attach) -> None:
    net, method = attach("rosa", stagger=True, resample_every=1.0)
    changed = method.before_step(net, 3, length=LENGTH)
    assert changed.draws == RANK
    assert {part.place for part in changed.clear} == {0, 1}


@pytest.mark.parametrize("basis", ["svd", "random", "gradient"])
def test_rotated_moments_are_those_of_gradients_in_the_new_basis(
    attach: Attach, compose: Callable[..., RunConfig], basis: str
) -> None:
    net, method = attach("rosa", train="a", moments="rotate", basis=basis)
    training = training_of(net, method, compose)
    for _ in range(4):
        step(training)
    layers = low_rank_layers(net)
    old = [(it.b.clone(), training.optimizer.state[it.a]["exp_avg"].clone()) for it in layers]
    draw(training)
    for layer, (b, average) in zip(layers, old, strict=True):
        # A gradient of the weight in the old basis, g = h b, has g b'^T as its gradient of A in the new one.
        torch.testing.assert_close(training.optimizer.state[layer.a]["exp_avg"], average @ b @ layer.b.mT)
        assert training.optimizer.state[layer.a]["step"] == 4


def test_other_moments_stay_even_if_the_protocol_clears_all(attach: Attach, compose: Callable[..., RunConfig]) -> None:
    for settings in ({"stagger": True}, {"train": "a", "moments": "rotate"}):
        net, method = attach("rosa", **settings, train_head=True)
        training = training_of(net, method, compose)
        training.recipe = replace(training.recipe, reset="all")
        for _ in range(4):
            step(training)
        head = [training.optimizer.state[p]["exp_avg"] for p in method.head_parameters(net)]
        draw(training)
        assert any(each.any() for each in head)


# When


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({"resample_every": 4}, [4, 8, 12, 16]),
        ({"resample_every": 4, "last_resample": 0.8}, [4, 8, 12, 16]),
        ({"resample_every": 4, "last_resample": 0.79}, [4, 8, 12]),
        ({"resample_every": 4, "last_resample": 0.0}, []),
        ({"resample_every": 0.1, "resample_unit": "run"}, list(range(2, 20, 2))),
        ({"resample_every": 1, "resample_unit": "run"}, []),
        ({"resample_every": 0.5, "resample_unit": "epochs"}, [5, 10, 15]),
        ({"resample_every": 5, "stagger": True}, [3, 5, 8, 10, 13, 15, 18]),  # every 2.5 steps
        ({"resample_every": 1, "stagger": True}, list(range(1, 20))),
        ({"resample_every": 5, "stagger": True, "last_resample": 0.5}, [3, 5, 8, 10]),
        ({"resample_every": 0}, []),
    ],
    ids=name_of,
)
def test_when_draws_are_made(compose: Callable[..., RunConfig], settings: dict[str, Any], due: list[int]) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa", f"rank={RANK}").method
    method = replace(method, **EVERY | settings)
    assert isinstance(method, Rosa)
    assert method.due_steps(LENGTH) == due
    every = [number for at in range(20) for number in method.draws(at, LENGTH)]
    assert every == list(range(1, len(every) + 1))  # no number is left out or used twice


def test_last_resample_is_not_lost_to_rounding(compose: Callable[..., RunConfig]) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa").method
    assert isinstance(method, Rosa)
    method = replace(method, resample_every=1.0, resample_unit="steps", last_resample=0.29)
    assert method.due_steps(RunLength(100, 1))[-1] == 29  # 0.29 x 100 is 28.999999999999996


@pytest.mark.parametrize("name", ["rosa", "lora", "lora_plus"])
def test_the_learning_rate_rises_again_after_a_draw(compose: Callable[..., RunConfig], name: str) -> None:
    method = compose("task=grammar", "model=tiny_roberta", f"method={name}").method
    assert isinstance(method, Resampled)
    method = replace(method, resample_every=6.0, resample_unit="steps", rewarm_steps=3, last_resample=0.6)
    quarters = [4, 4, 4, 4, 4, 4, 1, 2, 3, 4, 4, 4, 1, 2, 3, 4, 4, 4, 4, 4]  # no draw before step 18
    expected = [quarter / 4 for quarter in quarters]
    assert [method.lr_factor(at, LENGTH) for at in range(20)] == expected
    assert [method.lr_factor(at, LENGTH) for at in reversed(range(20))] == expected[::-1]
    never = replace(method, resample_every=0.0)
    assert {never.lr_factor(at, LENGTH) for at in range(20)} == {1.0}


# Combinations


@pytest.mark.parametrize("settings", REFUSED, ids=name_of)
def test_combinations_that_make_no_sense_are_refused(
    compose: Callable[..., RunConfig], settings: dict[str, Any]
) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=rosa").method
    with pytest.raises(UserError, match=r"^method\.[^\n]*$"):
        replace(method, **EVERY | settings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.stagger=true", "method.resample_every=0"), "stagger=true draws nothing"),
        (("method.resample_unit=run",), "method.resample_every=2 is longer than the run"),
        (("method.basis=random", "method.select=top"), "select=top chooses from singular directions"),
        (("method.moments=rotate",), "moments=rotate needs method.train=a"),
        (("method.last_resample=1.5",), "method.last_resample=1.5 is out of range"),
        (("method.rewarm_steps=-1",), "method.rewarm_steps=-1 is out of range"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    compose: Callable[..., RunConfig], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose("task=grammar", "model=tiny_roberta", "method=rosa", *overrides)


def test_a_gradient_basis_is_drawn_before_the_first_step_and_needs_a_batch(
    attach: Attach, compose: Callable[..., RunConfig]
) -> None:
    net, method = attach("rosa", basis="gradient")
    assert method.due_steps(LENGTH) == [0, 4, 8, 12, 16]
    training = training_of(net, method, compose)
    draw(training)
    assert training.resamples == 0  # the draw that training starts with is not counted
    with pytest.raises(ValueError, match="needs the loss of a batch"):
        method.before_step(net, 4, length=LENGTH)
