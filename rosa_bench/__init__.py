"""Compare parameter-efficient fine-tuning methods: one training loop, from the command line or from Python.

    import rosa_bench

    config = rosa_bench.compose(["task=cola", "method=rosa", "rank=8"])
    record = rosa_bench.run(config)
    records = rosa_bench.load_records("results")

Importing the package is cheap: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rosa_bench.system.version import __version__

if TYPE_CHECKING:
    from rosa_bench.api import compose, load_records, run
    from rosa_bench.config.schema import RunConfig
    from rosa_bench.records.record import RunRecord

__all__ = ["RunConfig", "RunRecord", "__version__", "compose", "load_records", "run"]

_HOME = {
    "compose": "rosa_bench.api",
    "load_records": "rosa_bench.api",
    "run": "rosa_bench.api",
    "RunConfig": "rosa_bench.config.schema",
    "RunRecord": "rosa_bench.records.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
