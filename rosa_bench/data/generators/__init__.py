"""Data generators by name. A task's yaml names one of them in ``embedded``; nothing else can be called."""

import importlib
from inspect import signature
from typing import Any

from rosa_bench.system.errors import UserError

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

    Raises `UserError` if the generator does not make rows, does not have these settings, or has no such split.
    """
    target = GENERATORS[name]
    module, _, function = (target or "").partition(":")
    load = getattr(importlib.import_module(module), function) if target else None
    if load is None or settings.keys() - signature(load).parameters.keys():
        raise UserError(f"task.embedded={name} is not for this kind of task; leave it as the task's yaml has it")
    return load(split, **settings)
