"""One declaration per setting: a dataclass field that carries everything known about it.

Help, range checks, identity, deviations and publication are all derived from this declaration, so a new setting is
declared in one place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from functools import cache
from typing import Any, ClassVar

from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.text.names import check_name

KEY = "setting"
ABSENT: Any = object()  # value of `Setting.before` for a setting that has always existed


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a setting except its name, type and default.

    help       one line for ``--help``
    choices    the allowed values, if there are only a few
    at_least, above, at_most, below  the range of a number, or of the numbers in a list or mapping; it is finite anyway
    identity   whether the setting can change a score and is therefore part of a run's identity
    free       whether every protocol leaves the choice to the experiment, so that setting it is not a deviation
    is_name    whether it becomes part of a file's name, so that only letters, digits and a few signs are allowed
    is_folder  whether it names a folder; an empty text, as of a shell's variable without a value, is a mistake
    published  whether records show it; paths and tools of one machine are not shown
    before     the value that describes the behaviour before the setting existed; assumed for older records
    key        name on the command line, if it differs from the field's name
    open       whether a mapping takes keys that its default does not have, as settings of another library
    found      whether its default is replaced by what is found in the data, which is then no change of the setting
    """

    help: str
    choices: tuple[str, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    identity: bool = True
    free: bool = False
    is_name: bool = False
    is_folder: bool = False
    published: bool = True
    before: Any = ABSENT
    key: str | None = None
    open: bool = False
    found: bool = False

    def check(self, key: str, value: Any) -> None:
        """Raise `UserError`, naming ``key`` and the allowed values, if ``value`` is invalid. None is always valid."""
        if value is None:
            return
        if isinstance(value, dict | list | tuple):  # the range is that of the numbers inside
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                self.check(f"{key}.{name}" if isinstance(value, dict) else key, inner)
            return
        if self.choices is not None:
            one_of(key, value, self.choices)
        if self.is_name:
            check_name(key, value)
        if self.is_folder and not value:
            raise UserError(f"{key}= is empty; give a folder, as {key}=. for the current one")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if abs(value) == float("inf"):
            raise UserError(f"{key}={value} is out of range; it must be finite")
        bounds = (
            (self.at_least, "at least", lambda bound: value >= bound),
            (self.above, "above", lambda bound: value > bound),
            (self.at_most, "at most", lambda bound: value <= bound),
            (self.below, "below", lambda bound: value < bound),
        )
        for bound, words, fits in bounds:
            if bound is not None and not fits(bound):  # NaN fits none
                raise UserError(f"{key}={value} is out of range; it must be {words} {bound:g}")
        if math.isnan(value):
            raise UserError(f"{key}={value} is out of range; it must be a number")


def setting(
    help: str,  # noqa: A002 - argparse and click use this name
    *,
    default: Any = MISSING,
    default_factory: Callable[[], Any] | Any = MISSING,
    **known: Any,
) -> Any:
    """Return a dataclass field that declares a setting; ``known`` are further fields of `Setting`."""
    metadata = {KEY: Setting(help=help, **known)}
    return field(default=default, default_factory=default_factory, metadata=metadata)


UNDECLARED = Setting(help="")


def setting_of(declared: dataclasses.Field) -> Setting:
    """Return the `Setting` of a dataclass field. A field not made by `setting` has no help and no limits."""
    return declared.metadata.get(KEY, UNDECLARED)


def settings_of(kind: type | Any) -> tuple[tuple[dataclasses.Field, Setting], ...]:
    """Return each field of a dataclass (or of an instance) with its `Setting`."""
    return _settings_of(kind if isinstance(kind, type) else type(kind))


@cache
def _settings_of(kind: type) -> tuple[tuple[dataclasses.Field, Setting], ...]:
    return tuple((declared, setting_of(declared)) for declared in dataclasses.fields(kind))


class Checked:
    """Base class for dataclasses whose settings are checked when an instance is created.

    section  the prefix of its settings on the command line, such as ``optimizer``; empty at the top level
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for declared, known in settings_of(self):
            key = known.key or ".".join(filter(None, (self.section, declared.name)))
            known.check(key, getattr(self, declared.name))
