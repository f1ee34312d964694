"""Compare parameter-efficient fine-tuning methods: one training loop, from the command line or from Python.

    import rosa_bench

    config = rosa_bench.compose(["task=cola", "method=rosa", "rank=8"])
    record = rosa_bench.run(config)
    records = rosa_bench.load_records("results")
    attached = rosa_bench.attach(model, "rosa", rank=8)  # for a training loop of your own

Importing the package is cheap: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rosa_bench.system.version import __version__

if TYPE_CHECKING:
    from rosa_bench.adapters.attach import attach, load_adapter
    from rosa_bench.adapters.attached import Attached
    from rosa_bench.api import compose, load_records, run
    from rosa_bench.config.schema import RunConfig
    from rosa_bench.methods.base import RunLength
    from rosa_bench.records.record import RunRecord

__all__ = [
    "Attached",
    "RunConfig",
    "RunLength",
    "RunRecord",
    "__version__",
    "attach",
    "compose",
    "load_adapter",
    "load_records",
    "run",
]

_HOME = {
    "attach": "rosa_bench.adapters.attach",
    "load_adapter": "rosa_bench.adapters.attach",
    "Attached": "rosa_bench.adapters.attached",
    "RunLength": "rosa_bench.methods.base",
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
