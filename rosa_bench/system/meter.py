"""Time and peak memory, phase by phase, of one run on one device."""

import gc
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Meter:
    """Adds up seconds, and keeps the peak of memory, under the name of the phase they were spent in.

    Phases nest: a resample inside training counts as resampling alone. The device is synchronised only where a
    phase begins or ends, so that a training step is never made to wait.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.time_s: dict[str, float] = defaultdict(float)
        self.memory_bytes: dict[str, int] = defaultdict(int)
        self._phases: list[str] = []
        self._since = time.perf_counter()

    @property
    def totals(self) -> dict[str, Mapping[str, float]]:
        """Everything so far, as a checkpoint keeps it: the phase that is going on too."""
        time_s, memory_bytes = dict(self.time_s), dict(self.memory_bytes)
        if self._phases:
            name = self._phases[-1]
            time_s[name] = time_s.get(name, 0) + time.perf_counter() - self._since
            memory_bytes[name] = max(memory_bytes.get(name, 0), peak_bytes(self.device))
        return {"time_s": time_s, "memory_bytes": memory_bytes}

    def go_on_from(self, totals: Mapping[str, Mapping[str, float]]) -> None:
        """Add what an earlier part of the run took. The peak of memory is the greater one's."""
        for name, seconds in totals["time_s"].items():
            self.time_s[name] += seconds
        for name, peak in totals["memory_bytes"].items():
            self.memory_bytes[name] = max(self.memory_bytes[name], int(peak))

    @property
    def headroom_bytes(self) -> int | None:
        """How much more memory can be taken now without raising the run's peak so far; none where that is not known."""
        if self.device.type != "cuda":
            return None
        peak = max(peak_bytes(self.device), *self.memory_bytes.values(), 0)
        return peak - torch.cuda.memory_allocated(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside the block as ``name``."""
        self._close()
        self._phases.append(name)
        try:
            yield
        finally:
            self._close()
            self._phases.pop()

    def _close(self) -> None:
        """End the current stretch: book its time and peak, and begin the next one from zero."""
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
    """Give back what earlier runs of this process left, so that neither peak nor room depend on the run before.

    A model goes with its last reference; one that is in a cycle, as hooks make them, only when it is looked for.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Forget the peak of memory so far, so that one job of a sweep does not report another's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # Linux: resets VmHWM, the high-water mark of resident memory


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `reset_peak`: of the CUDA allocator, or resident memory of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the whole life's peak: cannot be reset here
    return peak if sys.platform == "darwin" else peak * 1024
