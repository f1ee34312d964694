"""Shared by the figures of peak memory: what is measured, and the runs that may be compared."""

from collections.abc import Iterable
from dataclasses import replace

from rosa_bench.report.cells.costs import most_common
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.figures.plotting.panels import Panel

# What peak memory means, keyed by device type.
MEASURED = {
    "cuda": "the greatest sum of the CUDA allocator's blocks in use by tensors: this process's own, whatever else runs "
    "on a shared GPU, and without the CUDA context",
    "cpu": "resident memory of the whole process, its libraries and data with it",
}
ELSEWHERE = "as the records say"


def measured_words(groups: Iterable[Group]) -> str:
    """Say what peak memory means on the devices of these settings: ``Measured on cpu: resident memory of ...``."""
    kinds = sorted({group.setting.device for group in groups})
    return f"Measured on {'; on '.join(f'{kind}: {MEASURED.get(kind, ELSEWHERE)}' for kind in kinds)}."


def on_one_device(panel: Panel) -> Panel:
    """Keep the measured runs on the most common device, because kernels on other devices need different memory."""
    measured = [run for run in panel.runs if run.memory_bytes.training]
    name = most_common(measured, lambda run: run.device.name)
    kept = {run.id for run in measured if run.device.name == name}
    cells = {
        variant: replace(cell, runs=runs)
        for variant, cell in panel.cells.items()
        if (runs := tuple(run for run in cell.runs if run.id in kept))
    }
    return replace(panel, cells=cells)
