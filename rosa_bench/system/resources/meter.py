"""Measure the time and peak memory of each phase of a run."""

import gc
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Meter:
    """Total time in seconds and peak memory in bytes, by phase, of one run on one device.

    Phases nest: a resample during training counts only as resampling. The device is synchronised only at the start
    and end of a phase, so a training step never waits.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.time_s: dict[str, float] = defaultdict(float)
        self.memory_bytes: dict[str, int] = defaultdict(int)
        self._phases: list[str] = []
        self._since = time.perf_counter()

    @property
    def totals(self) -> dict[str, Mapping[str, float]]:
        """All totals so far, including the current phase, in the form that a checkpoint stores."""
        time_s, memory_bytes = dict(self.time_s), dict(self.memory_bytes)
        if self._phases:
            name = self._phases[-1]
            time_s[name] = time_s.get(name, 0) + time.perf_counter() - self._since
            memory_bytes[name] = max(memory_bytes.get(name, 0), peak_bytes(self.device))
        return {"time_s": time_s, "memory_bytes": memory_bytes}

    def resume_from(self, totals: Mapping[str, Mapping[str, float]]) -> None:
        """Include the `totals` of an earlier part of the run: seconds add up, the higher memory peak counts."""
        for name, seconds in totals["time_s"].items():
            self.time_s[name] += seconds
        for name, peak in totals["memory_bytes"].items():
            self.memory_bytes[name] = max(self.memory_bytes[name], int(peak))

    @property
    def headroom_bytes(self) -> int | None:
        """Memory headroom below the run's peak so far, or None if unknown."""
        if self.device.type != "cuda":
            return None
        peak = max(peak_bytes(self.device), *self.memory_bytes.values(), 0)
        return peak - torch.cuda.memory_allocated(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the time and memory of the block to the phase ``name``."""
        self._close()
        self._phases.append(name)
        try:
            yield
        finally:
            self._close()
            self._phases.pop()

    def _close(self) -> None:
        """Add the time and peak since the last call to the current phase, and start again from zero."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._phases:
            name = self._phases[-1]
            self.time_s[name] += now - self._since
            self.memory_bytes[name] = max(self.memory_bytes[name], peak_bytes(self.device))
        reset_peak(self.device)
        self._since = time.perf_counter()


def release_unused() -> None:
    """Free memory left by earlier runs in this process, so that neither peak nor headroom depends on them.

    The garbage collector must run: hooks put a model into a reference cycle, which outlives its last reference.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Reset the memory peak, so that one job of a sweep does not report the peak of another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or a sandbox that does not have it or allow it
        _CLEAR_REFS.write_text("5")  # resets VmHWM, the high-water mark of resident memory


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory since `reset_peak`: the CUDA allocator's, or on the CPU this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # peak since the process started; it cannot be reset here
    return peak if sys.platform == "darwin" else peak * 1024
