"""Load a metric: an `evaluate` module that is part of this package, so nothing is downloaded."""

import importlib
import tempfile
from typing import NamedTuple

import evaluate

from rosa_bench.system.errors import UserError


class LoadedMetric(NamedTuple):
    """A metric, the names of its scores, and a signature that makes them reproducible.

    undefined_if_constant  the scores that have no value if all labels are the same
    """

    module: evaluate.Metric
    scores: tuple[str, ...]
    signature: str
    undefined_if_constant: tuple[str, ...] = ()


def load(name: str) -> LoadedMetric:
    """Load the metric ``rosa_bench/metrics/<name>.py``. Raises `UserError` if it does not exist."""
    try:
        file = importlib.import_module(f"rosa_bench.metrics.{name}")
        scores, signature = file.SCORES, file.SIGNATURE
        undefined = getattr(file, "UNDEFINED_IF_CONSTANT", ())
        with (
            tempfile.TemporaryDirectory() as unused
        ):  # created in the user's cache otherwise, which may not be writable
            return LoadedMetric(file.Metric(keep_in_memory=True, cache_dir=unused), scores, signature, undefined)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"task.metric={name} does not exist; use a module of rosa_bench.metrics, such as accuracy"
        ) from error
