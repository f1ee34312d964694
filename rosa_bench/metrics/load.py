"""Load a metric: an `evaluate` module that ships with the package, so that none is downloaded."""

import importlib
from typing import NamedTuple

import evaluate

from rosa_bench.system.errors import UserError


class LoadedMetric(NamedTuple):
    """A metric ready to compute, the names of its figures, and what fixes them."""

    module: evaluate.Metric
    figures: tuple[str, ...]
    signature: str


def load(name: str) -> LoadedMetric:
    """The metric of ``rosa_bench/metrics/<name>.py``. Raises `UserError` when there is none."""
    try:
        file = importlib.import_module(f"rosa_bench.metrics.{name}")
        figures, signature = file.FIGURES, file.SIGNATURE
        return LoadedMetric(file.Metric(keep_in_memory=True), figures, signature)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"task.metric={name} is no metric of rosa_bench.metrics") from error
