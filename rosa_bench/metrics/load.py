"""Load a metric: an `evaluate` module that is part of this package, so nothing is downloaded.

The libraries that compute it are imported when it is first computed, after a run's first steps.
"""

import importlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    import evaluate


@dataclass(frozen=True)
class LoadedMetric:
    """A metric, the names of its scores, and a signature that makes them reproducible.

    undefined_if_constant  the scores that have no value if all labels are the same
    """

    file: ModuleType
    scores: tuple[str, ...]
    signature: str
    undefined_if_constant: tuple[str, ...] = ()

    @cached_property
    def module(self) -> "evaluate.Metric":
        """The `evaluate` module that computes it."""
        from rosa_bench.metrics.module import Module

        # `evaluate` makes a folder; in the user's cache, its default, it may not be allowed to.
        with tempfile.TemporaryDirectory() as unused:
            return Module(self.file, keep_in_memory=True, cache_dir=unused)


def load(name: str) -> LoadedMetric:
    """Load the metric ``rosa_bench/metrics/<name>.py``. Raises `UserError` if it or an import is missing."""
    try:
        file = importlib.import_module(f"rosa_bench.metrics.{name}")
        _, scores, signature = file.INPUTS, file.SCORES, file.SIGNATURE
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rosa_bench."):
            raise UserError(f"task.metric={name} needs the package {error.name}, which is not installed") from error
        raise UserError(
            f"task.metric={name} does not exist; use a module of rosa_bench.metrics, such as accuracy"
        ) from error
    return LoadedMetric(file, scores, signature, getattr(file, "UNDEFINED_IF_CONSTANT", ()))
