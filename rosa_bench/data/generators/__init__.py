"""Data generators by name. A task's yaml names one of them in ``embedded``; nothing else can be called."""

import importlib
from typing import Any

# Name -> "module:function" that returns the rows of a split, or None if the generator does not make rows.
GENERATORS: dict[str, str | None] = {
    "grammar": "rosa_bench.data.generators.grammar:sentences",
    "phonebook": "rosa_bench.data.generators.phonebook:load",
    "restaurants": "rosa_bench.data.generators.restaurants:load",
    "markov": None,  # makes numbers; see `rosa_bench.tasks.language_modelling.new_language`
    "synthetic_regression": None,  # makes tensors; see `rosa_bench.tasks.regression.prepare`
}


def generate(name: str, split: str, **settings: Any) -> list[dict[str, Any]]:
    """Return the rows of ``split`` from the generator ``name``, to which ``settings`` are passed.

    Raises ValueError if the generator does not make rows.
    """
    target = GENERATORS[name]
    if target is None:
        raise ValueError(f"generator {name} does not make rows")
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(split, **settings)
