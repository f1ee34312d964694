"""What is measured of the methods of a choice, and what is taken to be alike."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rosa_bench.choose import measuring
from rosa_bench.choose.budget import Budget
from rosa_bench.choose.plan import Arm, Cost, Rows
from rosa_bench.choose.probe import LIMIT_EVAL, LIMIT_TRAIN, Probe, rows_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.runs.resolve import resolve

ARMS = [Arm("lora", 2e-3, 2), Arm("lora", 2e-3, 8), Arm("rosa", 2e-3, 8), Arm("ft", 2e-5), Arm("lora", 6e-4, 8)]


def test_the_largest_rank_is_measured_and_late_methods_are_taken_to_cost_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 0.0, list[Arm]()
    costs = {"lora": Cost(1, 0.2, 0, 0, 5), "rosa": Cost(2, 0.1, 0, 0, 6)}

    def probed(run: Any, _limit: int | None) -> Probe:
        nonlocal now
        now += 10
        seen.append(run.arm)
        return Probe(costs[run.arm.method], Rows(100, 50, 0.1, 10), "a note")

    monkeypatch.setattr(measuring, "probed", probed)
    runs: Any = {arm: SimpleNamespace(arm=arm, device=torch.device("cpu")) for arm in ARMS}
    found = measuring.measure(runs, Budget(100, clock=lambda: now), memory_gb=1.0)
    assert seen == [ARMS[1], ARMS[2]]
    lora, rosa = costs.values()
    assert found.costs == {"lora rank 2": lora, "lora rank 8": lora, "rosa rank 8": rosa, "ft": lora}
    assert (found.rows.train, found.about, found.untried) == (100, "a note", [])


def test_the_least_memory_is_that_of_weights_gradients_and_moments(compose: Callable[..., RunConfig]) -> None:
    config = compose("task=grammar", "model=tiny_bert", "method=ft", "device=cpu")
    run = resolve(config, {})
    model = config.task.shapes(config.model, run.source)
    assert model is not None
    assert measuring.least_bytes(run) == 16 * sum(parameter.numel() for parameter in model.parameters())  # AdamW


def test_a_measurement_reads_few_rows_and_no_more_than_the_user_allows(compose: Callable[..., RunConfig]) -> None:
    def limits(*overrides: str) -> tuple[int | None, int | None]:
        run = measuring.small(resolve(compose("task=grammar", "model=tiny_bert", "device=cpu", *overrides), {}))
        return run.config.limit_train, run.config.limit_eval

    assert limits() == limits("limit_train=3000", "limit_eval=3000") == (LIMIT_TRAIN, LIMIT_EVAL)
    assert limits("limit_train=20", "limit_eval=10") == (20, 10)


def test_the_rows_of_a_task_are_counted_before_the_limits_of_a_measurement(compose: Callable[..., RunConfig]) -> None:
    settings = ("task=grammar", "model=tiny_bert", "device=cpu", "protocol=fair", "limit_train=40", "limit_eval=10")
    run = resolve(compose(*settings), {})
    found = rows_of(run, run.config.task.prepare(run.context))
    assert (found.train, found.reported) == (run.config.task.rows["train"], run.config.task.rows["validation"])
    assert found.selected is None  # held-out rows select
