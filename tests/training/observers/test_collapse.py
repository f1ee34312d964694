import math
from types import SimpleNamespace
from typing import Any

import pytest

from rosa_bench.records.parts.mappings import LEAST_SPREAD
from rosa_bench.training.observers.collapse import CollapseStop, collapsed
from rosa_bench.training.state import Epoch


def epoch(train_loss: float, spread: float | None = 0.0) -> Epoch:
    return Epoch(train_loss, {"loss": 0.7} | ({} if spread is None else {"spread": spread}), 1.0)


@pytest.mark.parametrize(("spread", "first", "second", "ends"), [
    (0.0, 0.69, 0.69, True),
    (0.0, 0.69, 0.70, True),
    (LEAST_SPREAD - 1e-6, 0.69, 0.69, True),
    (0.0, 0.69, 0.6845, True),  # it falls by less than 1 %
    (0.0, 0.69, 0.68, False),  # it still learns
    (0.0, 0.69, 0.2, False),
    (LEAST_SPREAD, 0.69, 0.69, False),
    (1.0, 0.69, 0.69, False),
    (None, 0.69, 0.69, False),  # all labels are the same, so no spread is known
    (math.nan, 0.69, 0.69, False),
])  # fmt: skip
def test_a_run_has_collapsed_if_its_answers_are_alike_and_its_loss_does_not_fall(
    spread: float | None, first: float, second: float, ends: bool
) -> None:
    assert bool(collapsed(epoch(first, 1.0), epoch(second, spread))) == ends


@pytest.mark.parametrize(("losses", "spreads", "stops"), [
    ((0.69, 0.69, 0.69), (1.0, 0.0, 0.0), [2]),
    ((0.69, 0.69, 0.69), (0.0, 1.0, 0.0), []),  # too early, and too late
    ((0.90, 0.69, 0.69), (0.0, 0.0, 0.0), []),
])  # fmt: skip
def test_a_run_is_judged_once_after_its_second_epoch(
    losses: tuple[float, ...], spreads: tuple[float, ...], stops: list[int]
) -> None:
    found, history = list[int](), list[Epoch]()
    training: Any = SimpleNamespace(history=history, stop=lambda _: found.append(len(history)))
    for number, (loss, spread) in enumerate(zip(losses, spreads, strict=True)):
        history.append(epoch(loss, spread))
        CollapseStop().on_epoch_end(training, number, history[-1])
    assert found == stops


def test_the_reason_has_the_numbers() -> None:
    reason = collapsed(epoch(0.6931), epoch(0.6929, 0.004))
    assert reason
    assert all(number in reason for number in ("0.004", "0.6931", "0.6929"))
    assert "\n" not in reason
