"""Factories of many records of one kind; `make_record` makes one."""

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import pytest

from rosa_bench.record import RunRecord

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def over_seeds(make_record: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``over_seeds([0.5, 0.6], "method=lora")``: one record a dev score, of seeds 0, 1, ..."""

    def make(dev: Iterable[float], *overrides: str, **changes: Any) -> list[RunRecord]:
        return [make_record(*overrides, f"seed={seed}", dev=score, **changes) for seed, score in enumerate(dev)]

    return make


@pytest.fixture
def make_synthetic(make_record: MakeRecord) -> MakeRecord:
    """``make_synthetic([[0.5, 0.1], [0.6, 0.2]], "method=lora")``: a run with these losses, (replicates, epochs).

    bounds     ``best_of_rank`` on dev, (replicates, ranks from 0 on)
    held_out   score of the selected epoch on held-out rows, where those selected
    """

    def make(
        losses: list[list[float]],
        *overrides: str,
        bounds: list[list[float]] | None = None,
        held_out: float | None = None,
        **changes: Any,
    ) -> RunRecord:
        epochs = [
            {"mse": fmean(each), "loss": sum(each), **{f"mse.{number}": value for number, value in enumerate(each)}}
            for each in zip(*losses, strict=True)
        ]
        best = min(epochs, key=lambda scores: scores["mse"])
        scores = {
            "reported": "mse",
            "lower_is_better": True,
            "signature": "",
            "epochs": [{"train_loss": each["loss"], "scores": each, "time_s": 1.0} for each in epochs],
            "selected_on": "validation" if held_out is None else "held_out",
            "selection_score": best["mse"] if held_out is None else held_out,
            "selected": {"epoch": epochs.index(best) + 1, **best},
            "last": {"epoch": len(epochs), **epochs[-1]},
        }
        known = {} if bounds is None else {"best_of_rank": {"train": bounds, "validation": bounds}}
        return make_record(
            "task=synthetic", f"task.replicates={len(losses)}", f"epochs={len(epochs)}", *overrides,
            data={"source": "embedded", "fingerprint": str(losses), **known}, scores=scores,
            **{"device": {"type": "cpu", "name": "some CPU", "precision": "float32"}, **changes},
        )  # fmt: skip

    return make
