"""What runs cost is compared only between runs made in the same way on the same device."""

from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.records.parts.mappings import PeakBytes
from rosa_bench.records.parts.measured import Stopped
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.costs import (
    HOW_RUN,
    made_on,
    most_common,
    own_peak_bytes,
    peak_memory_bytes,
    step_time_s,
    time_ratio,
)

MakeRecord = Callable[..., RunRecord]
H200 = {"type": "cuda", "name": "NVIDIA H200", "precision": "bfloat16", "shared_by": 1}
EPOCHS, STEPS = 10, -(-8551 // 32)  # of CoLA


@pytest.fixture
def timed(make_record: MakeRecord) -> MakeRecord:
    """``timed(20.0, "method=lora", shared_by=7)``: a run of CoLA that trained for so many seconds."""

    def make(train_s: float, *overrides: str, commit: str = "a" * 40, **device: Any) -> RunRecord:
        return make_record(
            "task=cola", *overrides, time_s={"train": train_s, "resample": 0.25 * train_s},
            device={**H200, **device}, git={"commit": commit, "dirty": False},
        )  # fmt: skip

    return make


def test_the_time_of_a_step_has_its_share_of_resamples(timed: MakeRecord) -> None:
    assert step_time_s(timed(20.0, "method=rosa")) == pytest.approx(25 / (EPOCHS * STEPS))


def test_a_run_whose_gpu_may_have_been_shared_has_no_time(timed: MakeRecord) -> None:
    assert step_time_s(timed(20.0, "method=lora", shared_by=None)) is None
    assert step_time_s(timed(20.0, "method=lora", type="cpu", shared_by=None)) is not None


def test_a_stopped_run_made_the_steps_of_its_epochs_alone(timed: MakeRecord) -> None:
    run = timed(20.0, "method=lora")
    run.stopped = Stopped(epoch=2, reason="collapsed")
    assert step_time_s(run) == pytest.approx(25 / (2 * STEPS))


def test_runs_that_shared_each_step_have_neither_a_time_nor_memory_of_their_own(timed: MakeRecord) -> None:
    run = timed(20.0, "method=lora")
    run.memory_bytes = PeakBytes({"train": 100})
    assert (own_peak_bytes(run), step_time_s(run) is None) == (100, False)
    run.packed = 3
    assert (own_peak_bytes(run), step_time_s(run)) == (None, None)


@pytest.mark.parametrize("key", HOW_RUN)
def test_a_record_older_than_a_setting_was_made_with_its_default(make_record: MakeRecord, key: str) -> None:
    old, new = make_record("method=ft"), make_record("method=ft", "seed=1")
    del old.config[key]
    assert made_on(old) == made_on(new)


def test_times_are_compared_within_a_batch_of_runs(timed: MakeRecord) -> None:
    lora = [timed(10.0, "method=lora"), timed(40.0, "method=lora", shared_by=4), timed(1.0, "method=lora", name="H100")]
    alone, packed = timed(20.0, "method=dora"), timed(40.0, "method=dora", shared_by=4)
    assert time_ratio([alone], lora) == pytest.approx(2)
    assert time_ratio([packed], lora) == pytest.approx(1)
    assert time_ratio([alone, packed], lora) == pytest.approx(1.5)
    assert time_ratio([alone, alone, packed], lora) == pytest.approx(5 / 3)  # each of our runs counts once


@pytest.mark.parametrize("other", [
    {"name": "NVIDIA H100"}, {"shared_by": 2}, {"shared_by": None}, {"commit": "b" * 40}, {"threads": 4},
])  # fmt: skip
def test_times_of_different_circumstances_are_never_compared(timed: MakeRecord, other: dict[str, Any]) -> None:
    assert time_ratio([timed(20.0, "method=dora", **other)], [timed(10.0, "method=lora")]) is None


def test_memory_is_that_of_one_device_and_one_way_of_running(make_record: MakeRecord) -> None:
    plain = [make_record("method=ft", f"seed={seed}", memory_bytes={"train": 100 + seed}) for seed in (0, 2)]
    halved = make_record("method=ft", "accumulate=2", memory_bytes={"train": 50})
    saving = make_record("method=ft", "gradient_checkpointing=true", memory_bytes={"train": 10})
    elsewhere = make_record("method=ft", memory_bytes={"train": 7}, device={**H200, "name": "another card"})
    unmeasured = make_record("method=ft", "seed=5")
    runs = [elsewhere, halved, *plain, saving, unmeasured]
    assert most_common(runs) == made_on(plain[0])
    assert peak_memory_bytes(runs, made_on(plain[0])) == 101
    assert peak_memory_bytes(runs, made_on(halved)) == 50
    assert peak_memory_bytes(plain, made_on(elsewhere)) is None
