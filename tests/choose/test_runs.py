"""What the runs of a choice have reached when the budget is over."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rosa_bench.choose.budget import Budget
from rosa_bench.choose.plan import Arm
from rosa_bench.choose.runs import Runs


def test_a_run_that_the_budget_cuts_short_has_not_reached_its_epochs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run: Any = SimpleNamespace(id="a run", config=SimpleNamespace(epochs=9), record_path=tmp_path / "none.json")
    record: Any = SimpleNamespace(status="interrupted", scores=SimpleNamespace(epochs=[1, 2]))
    no_choice: Any = None
    runs = Runs(no_choice, Budget(60), resolved=lambda _arm, _seed: run, save=lambda: None)
    monkeypatch.setattr(runs, "_needed_s", lambda *_, **__: 1.0)
    monkeypatch.setattr(runs, "_continue", lambda *_: record)

    def reached(epochs: int) -> bool:
        return runs.reach(Arm("lora", 2e-3, 8), seed=0, epochs=epochs, keep=False) is record

    assert reached(2)
    assert not reached(3)
    assert list(runs.made) == ["a run"]
    record.status = "failed"  # and there is no more to come
    assert reached(3)
