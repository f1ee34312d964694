import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rosa_bench.system.resources import meter as meter_module
from rosa_bench.system.resources.meter import Meter, peak_bytes, reset_peak

CPU = torch.device("cpu")
MIB = 1 << 20


class Clock:
    """A clock that a test advances by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the meter's clock, and skip its memory readings, which are slow."""
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    monkeypatch.setattr(meter_module, "reset_peak", lambda _device: None)
    monkeypatch.setattr(meter_module, "peak_bytes", lambda _device: 0)
    return clock


def test_nested_phases_count_each_second_once(clock: Clock) -> None:
    meter = Meter(CPU)
    clock.now += 1  # outside any phase
    with meter.phase("train"):
        clock.now += 2
        with meter.phase("resample"):
            clock.now += 4
            with meter.phase("load"):
                clock.now += 8
            clock.now += 16
        clock.now += 32
    clock.now += 64
    with meter.phase("evaluate"):
        clock.now += 128
    # Powers of two, so each sum shows exactly which intervals it includes.
    assert meter.time_s == {"train": 2 + 32, "resample": 4 + 16, "load": 8, "evaluate": 128}


def test_phases_with_the_same_name_add_up(clock: Clock) -> None:
    meter = Meter(CPU)
    for seconds in (1, 2):
        with meter.phase("train"):
            clock.now += seconds
            with meter.phase("train"):
                clock.now += 4
    assert meter.time_s == {"train": 1 + 2 + 4 + 4}


def test_an_error_ends_all_open_phases(clock: Clock) -> None:
    meter = Meter(CPU)
    with pytest.raises(KeyError), meter.phase("train"):
        clock.now += 1
        with meter.phase("resample"):
            clock.now += 2
            raise KeyError
    clock.now += 4
    with meter.phase("evaluate"):
        clock.now += 8
    assert meter.time_s == {"train": 1, "resample": 2, "evaluate": 8}


def test_memory_of_a_phase_is_its_highest_peak(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(peak=0)
    monkeypatch.setattr(meter_module, "peak_bytes", lambda _device: state.peak)
    monkeypatch.setattr(meter_module, "reset_peak", lambda _device: setattr(state, "peak", 0))
    meter = Meter(CPU)
    with meter.phase("train"):
        state.peak = 5
        with meter.phase("resample"):
            state.peak = 9
        state.peak = 3
    with meter.phase("evaluate"):
        pass
    assert meter.memory_bytes == {"train": 5, "resample": 9, "evaluate": 0}


def test_totals_include_the_current_phase(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(CPU)
    with meter.phase("train"):
        clock.now += 1
        with meter.phase("resample"):
            clock.now += 2
        clock.now += 4
        monkeypatch.setattr(meter_module, "peak_bytes", lambda _device: 7)
        totals = {"time_s": {"train": 1 + 4, "resample": 2}, "memory_bytes": {"train": 7, "resample": 0}}
        assert meter.totals == totals
        assert meter.totals == totals  # reading changes nothing
    assert meter.totals == totals


def test_resuming_adds_seconds_and_keeps_the_higher_peak(clock: Clock) -> None:
    first, meter = Meter(CPU), Meter(CPU)
    with first.phase("load"), first.phase("train"):
        clock.now += 1
    with meter.phase("load"):
        clock.now += 2
    meter.memory_bytes.update(load=5, train=3)
    meter.resume_from({"time_s": first.totals["time_s"], "memory_bytes": {"load": 4, "train": 6}})
    with meter.phase("train"):
        clock.now += 4
    assert meter.time_s == {"load": 2, "train": 1 + 4}
    assert meter.memory_bytes == {"load": 5, "train": 6}


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process")


@linux
def test_a_phase_that_allocates_has_the_higher_peak() -> None:
    meter = Meter(CPU)
    with meter.phase("before"):
        pass
    with meter.phase("outer"), meter.phase("large"):
        torch.ones(200 * MIB // 4)  # float32, written and freed immediately
    with meter.phase("after"):
        pass
    for small in ("before", "outer", "after"):
        assert meter.memory_bytes["large"] > meter.memory_bytes[small] + 150 * MIB


@linux
def test_peak_remains_after_memory_is_freed_until_reset() -> None:
    reset_peak(CPU)
    low = peak_bytes(CPU)
    torch.ones(200 * MIB // 4)
    assert peak_bytes(CPU) > low + 150 * MIB
    reset_peak(CPU)
    assert peak_bytes(CPU) < low + 50 * MIB


def test_a_kernel_that_neither_reports_nor_resets_the_peak_gives_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (status := tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t1 kB\n")
    monkeypatch.setattr(meter_module, "_STATUS", status)
    monkeypatch.setattr(meter_module, "_CLEAR_REFS", tmp_path)  # a folder cannot be written
    with (meter := Meter(CPU)).phase("train"):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    assert meter.memory_bytes["train"] == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_headroom_is_unknown_on_the_cpu() -> None:
    with (meter := Meter(CPU)).phase("train"):
        assert meter.headroom_bytes is None


@pytest.mark.parametrize(("earlier", "current_peak", "allocated", "headroom"), [
    ({}, 30, 10, 20),  # the peak of the current phase
    ({"load": 90, "evaluate": 50}, 30, 10, 80),  # the peak of an earlier phase
    ({"load": 20}, 30, 30, 0),
])  # fmt: skip
def test_headroom_is_measured_from_the_peak_of_the_whole_run(
    monkeypatch: pytest.MonkeyPatch, earlier: dict[str, int], current_peak: int, allocated: int, headroom: int
) -> None:
    monkeypatch.setattr(meter_module, "peak_bytes", lambda _device: current_peak)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: allocated)
    meter = Meter(torch.device("cuda"))
    meter.memory_bytes.update(earlier)
    assert meter.headroom_bytes == headroom
