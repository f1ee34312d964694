"""Records made by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord, from_values


def _made(status: str = "completed", **changes: Any) -> RunRecord:
    named = {"name": "x", "title": "é — 漢"}
    config = {
        "lr": 1e-3, "seed": 0, "epochs": 1, "batch_size": 4, "max_length": None, "limit_train": None,
        "task": {**named, "train": "train", "validation": "dev"}, "model": named, "method": named, "protocol": named,
    }  # fmt: skip
    data = {"source": "files", "fingerprint": "0", "synthetic": False, "subset": False, "official_rows": {"train": 3}}
    figure = {"epoch": 1, "accuracy": 0.1 + 0.2}
    scores = {
        "reported": "accuracy", "selected_on": "held_out", "selection_score": 0.5, "selected": figure, "last": figure,
        "epochs": [{"train_loss": None, "scores": {"accuracy": 0.3, "loss": 2}, "time_s": 1.5}],
    }  # fmt: skip
    settings: dict[str, Any] = {
        "id": "cola-tiny-lora-r2-lr0.001-s0-0123456789", "config": config, "deviations": {"epochs": [1, 10]},
        "data": {**data, "rows": {"train": 3, "held_out": 0, "validation": 2}}, "model": {"source": "random"},
        "device": {"type": "cpu", "name": "x", "precision": "float32"}, "versions": {}, "git": {},
        "started_at": "2026-01-02T03:04:05+00:00", "parameters": {"trainable": 5}, "scores": scores,
    }  # fmt: skip
    return from_values({"status": status, **settings, **changes})


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """``record("failed", id="x")``: a record of task and model x with this status and these fields."""
    return _made
