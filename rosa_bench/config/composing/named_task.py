"""A task that a run measures besides its own, by name, with the batch size and length of its own recipe."""

from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from rosa_bench.config.build import build
from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.groups import GROUPS, names_in
from rosa_bench.system.errors import one_of
from rosa_bench.tasks.base import Task


class NamedTask(NamedTuple):
    """A task as its yaml declares it, and the batch size and length that its recipe sets."""

    task: Task
    batch_size: int
    max_length: int | None


@cache
def named_task(name: str, *, key: str, protocol: str) -> NamedTask:
    """Return the task ``name``. Raises `UserError`, naming the setting ``key``, if there is none."""
    one_of(key, name, names_in("task"))
    with nullcontext() if GlobalHydra.instance().is_initialized() else composing():
        raw = Composer().compose((f"task={name}", f"protocol={protocol}"))
    base, default = GROUPS["task"]
    values = OmegaConf.to_container(raw.task, resolve=True)
    return NamedTask(build(base, values, at="task", default=default), raw.batch_size, raw.max_length)  # pyrefly: ignore[bad-argument-type]
