"""Programs that generate data, by name. A task's yaml names one in ``embedded``; nothing else can be called."""

import importlib
from typing import Any

# Name -> the module and function that make the rows of a split, where rows are what a program makes.
GENERATORS: dict[str, str | None] = {
    "grammar": "rosa_bench.data.generators.grammar:sentences",
    "restaurants": "rosa_bench.data.generators.restaurants:load",
    "synthetic_regression": None,  # tensors, made by `rosa_bench.tasks.regression.prepare`
}


def generate(name: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of ``split`` from the generator ``name``, which must be one that makes rows."""
    target = GENERATORS[name]
    if target is None:
        raise ValueError(f"generator {name} makes no rows")
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(split)
