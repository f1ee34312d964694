"""Metrics as `evaluate` modules that ship with the package, so that none is downloaded. One file a metric."""

import importlib
from typing import NamedTuple

import evaluate

from rosa_bench.errors import UserError


class LoadedMetric(NamedTuple):
    """A metric ready to compute, and what fixes its figures."""

    module: evaluate.Metric
    signature: str


def load(name: str) -> LoadedMetric:
    """The metric of ``rosa_bench/metrics/<name>.py``. Raises `UserError` when there is no such file."""
    try:
        file = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"task.metric={name} is no metric of rosa_bench.metrics") from error
    return LoadedMetric(file.Metric(keep_in_memory=True), file.SIGNATURE)
