"""A factory of records, shaped as `rosa_bench.run` leaves them."""

from collections.abc import Callable, Iterable
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
        official = {"train": task["rows"][task["train"]], "validation": task["rows"][task["validation"]]}
        values: dict[str, Any] = {
            "id": "-".join([*(override.replace("=", "") for override in overrides), str(dev), str(held_out)]),
            "status": "completed",
            "config": config,
            "deviations": deviations or {},
            "data": {
                "source": f"hub {task['folder']}@main",
                "synthetic": task["synthetic"],
                "rows": {**official, "train": official["train"] - held_out_rows, "held_out": held_out_rows},
                "official_rows": task["rows"],
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
