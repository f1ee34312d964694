"""A factory of records, shaped as `rosa_bench.run` leaves them."""

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import pytest

from rosa_bench.config import RunConfig
from rosa_bench.record import RunRecord, public_config

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def make_record(compose: Callable[..., RunConfig]) -> MakeRecord:
    """``make_record("task=cola", dev=0.5, ...)``: a completed record of such a command line.

    dev, held_out  score of the selected epoch; ``held_out`` makes it one that was selected on held-out rows
    last           dev score of the last epoch
    deviations     as in the record; ``changes`` are top-level fields of the record to replace
    """

    def make(
        *overrides: str,
        dev: float = 0.5,
        held_out: float | None = None,
        last: float | None = None,
        deviations: dict[str, list[Any]] | None = None,
        trainable: int = 626_688,
        data: dict[str, Any] | None = None,
        **changes: Any,
    ) -> RunRecord:
        config = public_config(compose(*overrides))
        task, reported = config["task"], config["task"]["score"]
        held_out_rows = 0 if held_out is None else 100
        official = {split: task["rows"].get(task[split]) or task[f"{split}_rows"] for split in ("train", "validation")}
        values: dict[str, Any] = {
            "id": "-".join([*(override.replace("=", "") for override in overrides), str(dev), str(held_out)]),
            "status": "completed",
            "config": config,
            "deviations": deviations or {},
            "data": {
                "source": f"hub {task['folder']}@main",
                "synthetic": task["synthetic"],
                "rows": {**official, "train": official["train"] - held_out_rows, "held_out": held_out_rows},
                "official_rows": official,
                "subset": False,
                "fingerprint": f"{task['name']} {config['seed'] if held_out_rows else ''}",
            }
            | (data or {}),
            "model": {"source": "hub", "id": config["model"]["hub"], "revision": "main", "commit": None},
            "device": {"type": "cuda", "name": "NVIDIA H200", "precision": "bfloat16"},
            "versions": {},
            "git": {"commit": None, "dirty": None},
            "started_at": "2026-01-01T00:00:00+00:00",
            "parameters": {"total": 125_000_000, "trainable": trainable},
            "scores": {
                "reported": reported,
                "signature": "",
                "epochs": [],
                "selected_on": "validation" if held_out is None else "held_out",
                "selection_score": dev if held_out is None else held_out,
                "selected": {"epoch": 7, reported: dev},
                "last": {"epoch": 10, reported: dev if last is None else last},
            },
        }
        return RunRecord(**values | changes)

    return make


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
