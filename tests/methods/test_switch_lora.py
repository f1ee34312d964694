"""SwitchLoRA beyond the laws of every method: when vectors are exchanged, what an exchange moves, and what waits."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.methods.base import RunLength
from rosa_bench.methods.switch_lora import SwitchLora
from rosa_bench.system.errors import UserError
from rosa_bench.training.state import Recipe, Training

RANK = 4
LENGTH = RunLength(100, 4)
TINY = ("task=grammar", "model=tiny_roberta", "method=switch_lora", f"rank={RANK}")


@pytest.fixture
def method(compose: Callable[..., RunConfig]) -> Callable[..., SwitchLora]:
    """``method(decay=0.0)``: SwitchLoRA of rank 4 with these settings."""

    def make(**changes: Any) -> SwitchLora:
        chosen = compose(*TINY).method
        assert isinstance(chosen, SwitchLora)
        return replace(chosen, **changes)

    return make


@pytest.fixture
def training(small: Any, method: Callable[..., SwitchLora], compose: Callable[..., RunConfig]) -> Callable[..., Any]:
    """``training(decay=0.0)``: a RoBERTa in float64 that trains with such a method."""

    def make(**changes: Any) -> Training:
        chosen = method(**changes)
        net = chosen.attach(small.model("tiny_roberta"))
        optimizer = replace(compose(*TINY).optimizer, weight_decay=0.0)
        recipe = Recipe(lr=1e-2, epochs=4, warmup_steps=0, optimizer=optimizer, accumulate=1, reset="all")
        return Training(net, chosen, recipe, steps_per_epoch=100, device=torch.device("cpu"))

    return make


def vectors(layer: LowRankLinear, factor: str) -> list[Tensor]:
    """All columns of A or rows of B, and then those that wait."""
    pool: Any = layer.get_submodule("exchange").candidates
    each = [layer.a.mT, pool["a"].mT] if factor == "a" else [layer.b, pool["b"]]
    return list(torch.cat(each).detach().clone())


def exchange(training: Training) -> Any:
    changed = training.method.before_step(training.model, training.step, length=LENGTH)
    training.follow(changed)
    return changed


def step(training: Training) -> None:
    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(training.step))
    labels = torch.tensor([0, 1, 1, 0])
    training.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    training.method.after_backward(training.model)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.step += 1


# When


@pytest.mark.parametrize(("every", "decay"), [(40, 0.1), (40, 1.0), (7, 0.3), (2, 0.05)])
def test_the_frequency_decays_exponentially_to_a_third(
    method: Callable[..., SwitchLora], every: int, decay: float
) -> None:
    chosen = method(resample_every=float(every), decay=decay)
    total, exact, made = LENGTH.total_steps, 0.0, 0
    for at in range(1, total):
        frequency = math.exp(-math.log(3) * at / (decay * total)) / every  # of each vector, at this step
        exact += 2 * RANK * frequency
        made += len(chosen.draws(at, LENGTH))
        assert made in {math.floor(exact - 1e-9), math.floor(exact + 1e-9)}
    assert not chosen.draws(0, LENGTH)


def test_vectors_of_both_factors_take_turns(method: Callable[..., SwitchLora]) -> None:
    chosen = method()
    turns = [chosen.turn(number) for number in range(1, 2 * RANK + 1)]
    assert turns == [("a", 0), ("b", 2), ("a", 1), ("b", 3), ("a", 2), ("b", 0), ("a", 3), ("b", 1)]
    assert [chosen.turn(number) for number in range(2 * RANK + 1, 4 * RANK + 1)] == turns


# What an exchange moves


@pytest.mark.parametrize(("number", "factor", "place"), [(1, "a", 0), (2, "b", 2)])
def test_one_vector_changes_places_with_a_candidate_and_the_weight_stays(
    training: Callable[..., Any], number: int, factor: str, place: int
) -> None:
    made = training(resample_every=8.0, decay=0.0, alpha=2 * RANK)  # one exchange per step
    for _ in range(number):
        step(made)
    layers, other = low_rank_layers(made.model), {"a": "b", "b": "a"}[factor]
    before = [{name: vectors(layer, name) for name in "ab"} for layer in layers]
    weights = [layer.merged_weight().clone() for layer in layers]
    changed = exchange(made)
    assert changed.draws == 1
    chosen = set()
    for layer, old in zip(layers, before, strict=True):
        now = vectors(layer, factor)
        moved = [at for at, (one, two) in enumerate(zip(old[factor], now, strict=True)) if not torch.equal(one, two)]
        assert len(moved) == 2 and moved[0] == place and moved[1] >= RANK
        assert torch.equal(now[moved[0]], old[factor][moved[1]]) and torch.equal(now[moved[1]], old[factor][moved[0]])
        assert all(map(torch.equal, vectors(layer, other), old[other]))
        chosen.add(moved[1])
    torch.testing.assert_close([layer.merged_weight() for layer in layers], weights)
    assert len(chosen) > 1  # each weight has its own candidate


def test_only_the_counterparts_moments_are_cleared(training: Callable[..., Any]) -> None:
    made = training(resample_every=8.0, decay=0.0)
    step(made)
    [first, *_] = low_rank_layers(made.model)
    states = {name: made.optimizer.state[getattr(first, name)] for name in "ab"}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in states.items()}
    exchange(made)  # column 0 of A, whose counterpart is row 0 of B
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(states["a"][key], before["a"][key])
        assert before["b"][key].any(-1).all()
        assert states["b"][key].any(-1).tolist() == [False, True, True, True]
        assert torch.equal(states["b"][key][1:], before["b"][key][1:])
    assert states["b"]["step"] == before["b"]["step"] == 1


@pytest.mark.parametrize("idle_steps", [0, 3])
def test_the_counterpart_waits_and_then_trains(training: Callable[..., Any], idle_steps: int) -> None:
    made = training(resample_every=8.0, decay=0.0, idle_steps=idle_steps)
    step(made)
    exchange(made)
    layers = low_rank_layers(made.model)
    start = [layer.b.detach().clone() for layer in layers]
    for number in range(idle_steps + 1):
        step(made)
        for layer, b in zip(layers, start, strict=True):
            same = (layer.b == b).all(-1).tolist()
            assert same == [number < idle_steps, False, False, False]


# Where it starts


def test_a_checkpoint_holds_the_candidates_that_have_changed_places(training: Callable[..., Any]) -> None:
    def waiting(it: Training) -> list[Tensor]:
        return [one for layer in low_rank_layers(it.model) for factor in "ab" for one in vectors(layer, factor)[RANK:]]

    first, second = training(resample_every=2.0), training(resample_every=2.0)
    fresh = waiting(second)
    for first.step in (1, 2):
        assert exchange(first).draws
    kept = {name: tensor.clone() for name, tensor in first.method.state(first.model).items()}
    for name, tensor in second.method.state(second.model).items():
        tensor.data.copy_(kept[name])
    assert all(map(torch.equal, waiting(second), waiting(first)))
    assert not all(map(torch.equal, fresh, waiting(first)))


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (512, 64), (64, 512)])
def test_factors_and_candidates_start_with_the_papers_standard_deviations(
    method: Callable[..., SwitchLora], rows: int, columns: int
) -> None:
    """Its weight is W + B A / r, with B (m x r) and A (r x n)."""
    chosen, (m, n, r) = method(alpha=1.0), (rows, columns, RANK)
    deviations = {"a": (r / math.sqrt(m * n)) ** 0.25, "b": (math.sqrt(m) * r / (n * math.sqrt(n))) ** 0.25}
    draws = torch.Generator().manual_seed(0)
    for name, deviation in deviations.items():
        drawn = chosen.draw(name, (200, 200), torch.Size((rows, columns)), generator=draws)
        assert drawn.std().item() == pytest.approx(deviation, rel=0.02)
        assert drawn.abs().max().item() <= math.sqrt(3) * deviation  # of a uniform distribution


def test_a_weight_has_as_many_candidates_as_its_smaller_side(method: Callable[..., SwitchLora]) -> None:
    net = nn.Sequential(nn.Linear(12, 7), nn.Linear(7, 12))
    method(targets=".*", head="(?!)", lm_head=None, train_head=False).attach(net)
    shapes = [{name: tuple(pool.shape) for name, pool in layer.exchange.candidates.items()} for layer in net]  # pyrefly: ignore[missing-attribute]
    assert shapes == [{"a": (7, 7), "b": (7, 12)}, {"a": (12, 7), "b": (7, 7)}]


@pytest.mark.parametrize(("setting", "words"), [
    ({"resample_every": 0.0}, "use method=lora"), ({"train": "a"}, "use method.train=both"),
    ({"rewarm_steps": 2}, "use method.idle_steps"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    method: Callable[..., SwitchLora], setting: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        method(**setting)
