"""What a run says of itself."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.runs.outcome.recording import say_start


def test_deviations_are_logged_as_they_are_typed(
    make_record: Callable[..., RunRecord], caplog: pytest.LogCaptureFixture
) -> None:
    deviations = {
        "task.label": ("stars", ""), "limit_train": (20, None), "optimizer.betas": ([0.9, 0.99], [0.9, 0.98]),
        "pad_to_max": (True, False), "task.text": (["a b"], []),
    }  # fmt: skip
    config = SimpleNamespace(protocol=SimpleNamespace(name="fair"))
    resolved: Any = SimpleNamespace(id="x", device="cpu", precision="float32", config=config, deviations=deviations)
    with caplog.at_level(logging.INFO, logger="rosa_bench"):
        say_start(resolved, make_record())
    assert [line.removeprefix("  differs from protocol fair: ") for line in caplog.messages[1:]] == [
        "task.label=stars, not ''",
        "limit_train=20, not null",
        "optimizer.betas=[0.9,0.99], not [0.9,0.98]",
        "pad_to_max=true, not false",
        "task.text=['a b'], not []",
    ]
