import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import RunLength
from rosa_bench.metrics.base import Metric
from rosa_bench.system.errors import UserError
from rosa_bench.training.observers.selection import BestEpoch
from rosa_bench.training.state import Epoch


class Toy(nn.Module):
    """A frozen and a trained parameter, and a buffer."""

    residual: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.trained = nn.Parameter(torch.zeros(2))
        self.register_buffer("residual", torch.zeros(2))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.trained.fill_(value)
            self.residual.fill_(-value)


def changing(model: Toy) -> dict[str, torch.Tensor]:
    """Return the tensors that training can change, as a method does."""
    return {"trained": model.trained, "residual": model.residual}


def offered(scores: list[float], *, keep_weights: bool = True, lower_is_better: bool = False) -> tuple[Toy, BestEpoch]:
    """A trained model whose weight was ``n + 1`` in epoch ``n``."""
    model = Toy()
    best = BestEpoch(partial(changing, model), Metric("f1", lower_is_better), keep_weights=keep_weights)
    for number, value in enumerate(scores):
        model.set(number + 1)
        best.offer(number, {"f1": value, "loss": -value})
    return model, best


@pytest.mark.parametrize(("scores", "number"), [
    ([0.5], 0), ([0.1, 0.3, 0.2], 1), ([0.3, 0.2, 0.1], 0), ([0.1, 0.2, 0.3], 2), ([0.2, 0.3, 0.3], 1), ([0.0, 0.0], 0),
    ([-0.5, -0.1], 1), ([float("-inf"), -1.0], 1),
])  # fmt: skip
def test_the_best_epoch_is_the_first_with_the_highest_score(scores: list[float], number: int) -> None:
    model, best = offered(scores)
    assert (best.number, best.score) == (number, max(scores))
    best.restore()
    assert model.trained.tolist() == [number + 1] * 2
    assert model.residual.tolist() == [-number - 1] * 2


@pytest.mark.parametrize(("scores", "number"), [
    ([0.5], 0), ([0.3, 0.1, 0.2], 1), ([0.1, 0.2, 0.3], 0), ([0.3, 0.2, 0.1], 2), ([0.2, 0.1, 0.1], 1), ([0.0, 0.0], 0),
    ([float("inf"), 1.0], 1), ([1.0, 0.0], 1),
])  # fmt: skip
def test_for_errors_the_best_epoch_is_the_first_with_the_lowest_score(scores: list[float], number: int) -> None:
    model, best = offered(scores, lower_is_better=True)
    assert (best.number, best.score) == (number, min(scores))
    best.restore()
    assert model.trained.tolist() == [number + 1] * 2
    assert model.residual.tolist() == [-number - 1] * 2


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize(("scores", "number"), [([0.2, math.nan], 0), ([math.nan, 0.2], 1), ([math.nan, math.nan], 0)])
def test_any_number_is_better_than_nan(scores: list[float], number: int, lower_is_better: bool) -> None:
    model, best = offered(scores, lower_is_better=lower_is_better)
    assert best.number == number
    best.restore()
    assert model.trained.tolist() == [number + 1] * 2


def test_weights_are_restored_into_the_same_parameters() -> None:
    model, best = offered([0.2, 0.1])
    parameter, buffer = model.trained, model.residual
    best.restore()
    assert model.trained is parameter
    assert model.residual is buffer
    assert parameter.requires_grad


def test_kept_weights_are_independent_of_the_model() -> None:
    model, best = offered([0.2])
    model.set(9)
    best.restore()
    assert model.trained.tolist() == [1, 1]
    model.set(8)
    best.restore()
    assert model.trained.tolist() == [1, 1]


def test_nothing_is_restored_if_weights_are_not_kept() -> None:
    model, best = offered([0.2, 0.1], keep_weights=False)
    best.restore()
    assert best.number == 0
    assert model.trained.tolist() == [2, 2]


def test_kept_predictions_are_those_of_the_best_epoch() -> None:
    shown = torch.zeros(1)
    best = BestEpoch(dict, Metric("f1", False), keep_weights=False, predictions=lambda: {"outputs": shown.clone()})
    for number, value in enumerate((0.1, 0.3, 0.2)):
        best.offer(number, {"f1": value})
        assert (best.predicted["outputs"] == shown) == (number < 2)
        shown += 1
    assert best.predicted["outputs"].item() == 1


# Resuming


@pytest.mark.parametrize("keep_weights", [True, False])
@pytest.mark.parametrize("broken_off_after", [0, 1, 2, 3])
def test_resuming_selects_the_same_epoch(broken_off_after: int, keep_weights: bool) -> None:
    scores = [0.1, 0.3, 0.2]
    _, first = offered(scores[:broken_off_after], keep_weights=keep_weights)
    model = Toy()
    best = BestEpoch(partial(changing, model), Metric("f1", False), keep_weights=keep_weights)
    best.state = first.state
    for number in range(broken_off_after, len(scores)):
        model.set(number + 1)
        best.offer(number, {"f1": scores[number]})
    assert (best.number, best.score) == (1, 0.3)
    model.set(9)
    best.restore()
    assert model.trained.tolist() == [2 if keep_weights else 9] * 2


def test_resuming_cannot_ask_for_weights_that_were_not_kept() -> None:
    _, first = offered([0.1, 0.3], keep_weights=False)
    best = BestEpoch(partial(changing, Toy()), Metric("f1", False), keep_weights=True)
    with pytest.raises(UserError, match=r"without save_model, save_adapter.*resume=never"):
        best.state = first.state
    _, not_begun = offered([], keep_weights=False)
    best.state = not_begun.state
    assert best.number == -1


def test_resuming_without_keeping_weights_drops_old_ones() -> None:
    _, first = offered([0.1], keep_weights=True)
    model = Toy()
    best = BestEpoch(partial(changing, model), Metric("f1", False), keep_weights=False)
    best.state = first.state
    best.offer(1, {"f1": 0.2})
    assert best.state.tensors == {}


@pytest.mark.parametrize(("offers", "number"), [
    ([(0.9, False), (0.1, True)], 1), ([(0.1, True), (0.9, False)], 0), ([(0.2, False), (0.3, False)], 1),
    ([(0.9, False), (0.1, True), (0.2, True), (0.95, False)], 2),
])  # fmt: skip
def test_an_epoch_that_may_not_be_selected_is_a_last_resort(offers: list[tuple[float, bool]], number: int) -> None:
    model = Toy()
    best = BestEpoch(partial(changing, model), Metric("f1", False), keep_weights=True)
    for place, (score, selectable) in enumerate(offers):
        model.set(place + 1)
        kept = BestEpoch(partial(changing, model), Metric("f1", False), keep_weights=True)
        kept.state = best.state  # as after an interruption
        best = kept
        best.offer(place, {"f1": score}, selectable=selectable)
    best.restore()
    assert (best.number, model.trained[0].item()) == (number, number + 1)


@pytest.mark.parametrize(("last_only", "number"), [(False, 0), (True, 2)])
def test_only_the_last_epoch_of_a_run_in_phases_is_selected(
    compose: Callable[..., RunConfig], last_only: bool, number: int
) -> None:
    best = BestEpoch(partial(changing, Toy()), Metric("f1", False), keep_weights=False, last_only=last_only)
    length, method = RunLength(steps_per_epoch=5, epochs=3), compose("method=ft").method
    for epoch, score in enumerate((0.9, 0.5, 0.1)):
        training: Any = SimpleNamespace(step=5 * (epoch + 1), length=length, method=method)
        best.on_epoch_end(training, epoch, Epoch(0.0, {"f1": score}, 0.0))
    assert (best.number, best.score) == (number, (0.9, 0.5, 0.1)[number])


def test_an_epoch_that_the_method_refuses_is_a_last_resort() -> None:
    best = BestEpoch(partial(changing, Toy()), Metric("f1", False), keep_weights=False)
    length, method = RunLength(steps_per_epoch=5, epochs=3), SimpleNamespace(is_selectable=lambda step, _: step > 5)
    for epoch, score in enumerate((0.9, 0.5, 0.1)):
        training: Any = SimpleNamespace(step=5 * (epoch + 1), length=length, method=method)
        best.on_epoch_end(training, epoch, Epoch(0.0, {"f1": score}, 0.0))
    assert (best.number, best.score) == (1, 0.5)
