"""The plots of score against memory: which runs are in one, and which are on its front."""

from collections.abc import Callable
from typing import Any

from rosa_bench.records.record import RunRecord
from rosa_bench.report.page.panels import panels

MakeRecord = Callable[..., RunRecord]
MIB = 2**20
H200 = {"type": "cuda", "name": "NVIDIA H200", "precision": "bfloat16"}


def on(device: str) -> dict[str, Any]:
    return {"device": {**H200, "name": device}}


def test_only_runs_that_may_be_compared_share_a_panel(make_record: MakeRecord) -> None:
    shared: dict[str, Any] = {"memory_bytes": {"train": 300 * MIB}, "device": H200}
    runs = [make_record(f"seed={seed}", f"method={name}", **shared) for seed in (0, 1) for name in ("rosa", "lora")]
    runs += [make_record(**{**shared, **on("NVIDIA H100")}), make_record("task=rte", **shared)]
    runs += [make_record("gradient_checkpointing=true", "seed=7", **shared)]
    runs += [make_record("seed=8", model={"source": "wheel", "sha256": ["a" * 64]}, **shared)]
    found = panels(runs)
    assert [panel["runs"] for panel in found] == [[0, 1, 2, 3], [4], [5], [6], [7]]
    names = [panel["name"] for panel in found]
    assert names[0] == "CoLA, RoBERTa-base, paper, NVIDIA H200, bfloat16, matthews correlation"
    assert "NVIDIA H100" in names[1] and names[2].startswith("RTE, ")
    assert names[3] == f"{names[0]}, gradient_checkpointing=true"


def test_runs_without_a_memory_of_their_own_or_a_score_are_in_no_panel(make_record: MakeRecord) -> None:
    together = make_record(memory_bytes={"train": 900 * MIB})
    together.packed = 3
    crashed = make_record(memory_bytes={"train": 300 * MIB}, status="failed", scores={})
    assert panels([together, crashed, make_record()]) == []


def test_on_the_front_are_the_runs_that_no_other_beats(make_record: MakeRecord, make_synthetic: MakeRecord) -> None:
    memory = (100, 200, 200, 300, 150)

    def front(runs: list[RunRecord]) -> list[bool]:
        for run, mib in zip(runs, memory, strict=True):
            run.memory_bytes["train"] = mib * MIB
        [panel] = panels(runs)
        assert [x for x, _ in panel["points"]] == list(memory)
        return panel["front"]

    scores = (0.5, 0.6, 0.7, 0.65, 0.4)
    assert front([make_record(f"seed={seed}", dev=score) for seed, score in enumerate(scores)]) == [
        True, False, True, False, False,
    ]  # fmt: skip
    errors = (0.5, 0.6, 0.3, 0.35, 0.4)
    assert front([make_synthetic([[error]], f"seed={seed}") for seed, error in enumerate(errors)]) == [
        True, False, True, False, True,
    ]  # fmt: skip
