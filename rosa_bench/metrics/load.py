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
        kind, scores, signature = file.Metric, file.SCORES, file.SIGNATURE
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"task.metric={name} does not exist; use a module of rosa_bench.metrics, such as accuracy"
        ) from error
    # `evaluate` makes a folder; in the user's cache, its default, it may not be allowed to.
    with tempfile.TemporaryDirectory() as unused:
        module = kind(keep_in_memory=True, cache_dir=unused)
    return LoadedMetric(module, scores, signature, getattr(file, "UNDEFINED_IF_CONSTANT", ()))
