"""The configuration groups of a run: the base class of each, and the classes that its yaml files choose from."""

import re
from functools import cache
from typing import NamedTuple

from rosa_bench.config.build import imported
from rosa_bench.config.files.folder import files_in
from rosa_bench.config.schema import Protocol
from rosa_bench.methods.base import Method
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.optim.base import Optimizer
from rosa_bench.tasks.base import Task
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.trackers.base import Logger


class Group(NamedTuple):
    """``base`` is the class that all must inherit; ``default`` is the class of a yaml without ``_target_``."""

    base: type
    default: type | None = None


GROUPS = {
    "task": Group(Task, TextTask),
    "model": Group(Model, Encoder),
    "method": Group(Method),
    "optimizer": Group(Optimizer),
    "protocol": Group(Protocol, Protocol),
    "logger": Group(Logger, Logger),
}


def names_in(group: str) -> list[str]:
    """Return the choices of a group: the names of its yaml files."""
    return list(files_in(group))


@cache
def kinds(group: str, name: str | None = None) -> tuple[type, ...]:
    """Return the classes that the yaml files of a group use, or the class that the choice ``name`` uses.

    ``name`` may come from a record of unknown origin: it is compared with the names of the files, never made a path.
    """
    texts = [path.read_text(encoding="utf-8") for stem, path in files_in(group).items() if name in (None, stem)]
    targets = sorted({target for text in texts for target in re.findall(r"^_target_: *([^\s$]+)", text, re.MULTILINE)})
    default = GROUPS[group].default
    defaults = [default] if default and (name is None or not targets) else []
    return (*defaults, *(imported(target, at=group) for target in targets))
