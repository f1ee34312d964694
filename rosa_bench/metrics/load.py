"""Load a metric, a file of this folder.

The libraries that compute it are imported when it is first computed, after a run's first steps.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rosa_bench.system.errors import UserError


@dataclass(frozen=True)
class LoadedMetric:
    """A metric, the names of its scores, and a signature that makes them reproducible.

    compute                takes predictions and references, one per example, and returns the scores by name
    undefined_if_constant  the scores that have no value if all labels are the same
    """

    compute: Callable[[list[Any], list[Any]], dict[str, float]]
    scores: tuple[str, ...]
    signature: str
    undefined_if_constant: tuple[str, ...] = ()


def load(name: str) -> LoadedMetric:
    """Load the metric ``rosa_bench/metrics/<name>.py``. Raises `UserError` if it does not exist."""
    try:
        file = importlib.import_module(f"rosa_bench.metrics.{name}")
        compute, scores, signature = file.compute, file.SCORES, file.SIGNATURE
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"task.metric={name} does not exist; use a module of rosa_bench.metrics, such as accuracy"
        ) from error
    return LoadedMetric(compute, scores, signature, getattr(file, "UNDEFINED_IF_CONSTANT", ()))
