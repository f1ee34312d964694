"""One declaration per setting: a dataclass field that carries everything known about it.

Help, range checks, identity, deviations and publication are all derived from this declaration, so a new setting is
declared in one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar

from rosa_bench.system.errors import UserError, one_of

KEY = "setting"
ABSENT: Any = object()  # of `Setting.before`: the setting has always existed


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known about a setting besides its name, type and default.

    help       one line for ``--help``
    choices    the values allowed, if they are few
    at_least, above, at_most, below  the range of a number
    identity   whether the setting can change a score, and so belongs to the identity of a run
    free       whether every protocol leaves it to the experiment, so that setting it is no deviation
    published  whether records show it; paths and tools of one machine are not shown
    before     what was done before the setting existed: older records, which lack it, count as having this value
    key        name on the command line, where it is not the field's
    """

    help: str
    choices: tuple[str, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    identity: bool = True
    free: bool = False
    published: bool = True
    before: Any = ABSENT
    key: str | None = None

    def check(self, key: str, value: Any) -> None:
        """Raise `UserError`, naming ``key`` and what is allowed, unless ``value`` is. None is always allowed."""
        if value is None:
            return
        if self.choices is not None:
            one_of(key, value, self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        bounds = (
            (self.at_least, "at least", lambda bound: value >= bound),
            (self.above, "above", lambda bound: value > bound),
            (self.at_most, "at most", lambda bound: value <= bound),
            (self.below, "below", lambda bound: value < bound),
        )
        bounded = any(bound is not None for bound, _, _ in bounds)
        for bound, words, fits in bounds:
            if bound is not None and not fits(bound):  # NaN fits nothing
                raise UserError(f"{key}={value} is out of range; it must be {words} {bound:g}")
        if bounded and abs(value) == float("inf"):
            raise UserError(f"{key}={value} is out of range; it must be finite")


def setting(
    help: str,  # noqa: A002 - it is what argparse and click call it
    *,
    default: Any = MISSING,
    default_factory: Callable[[], Any] | Any = MISSING,
    **known: Any,
) -> Any:
    """Return a dataclass field that is a setting; ``known`` are fields of `Setting`."""
    metadata = {KEY: Setting(help=help, **known)}
    return field(default=default, default_factory=default_factory, metadata=metadata)


UNDECLARED = Setting(help="")


def setting_of(declared: dataclasses.Field) -> Setting:
    """Return what is known about a dataclass field; a field that is no `setting` has no help and no limits."""
    return declared.metadata.get(KEY, UNDECLARED)


def settings_of(kind: type | Any) -> Iterator[tuple[dataclasses.Field, Setting]]:
    """Yield the fields of a dataclass (or of an instance), each with what is known about it."""
    for declared in dataclasses.fields(kind):
        yield declared, setting_of(declared)


class Checked:
    """Base of dataclasses whose settings are checked when an instance is made.

    section  the prefix of its settings on the command line, such as ``optimizer``; empty at the top level
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for declared, known in settings_of(self):
            key = known.key or ".".join(filter(None, (self.section, declared.name)))
            known.check(key, getattr(self, declared.name))
