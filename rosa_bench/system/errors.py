"""Errors that are shown to the user as one line, and three checks for settings."""

import difflib
import re
import warnings
from collections.abc import Collection, Iterable

from rosa_bench.system.text.printable import printable


class UserError(ValueError):
    """A mistake that the user can fix. Its message is one line: what is wrong, and what to do."""


class StoppedError(KeyboardInterrupt):
    """Somebody asked the program to stop, from the keyboard. Its message says what was saved."""


class PreemptedError(StoppedError):
    """The system asked the program to stop, by a signal such as SIGTERM."""


PAUSED = "paused"  # how the reason of a run that is put aside begins


class PausedError(StoppedError):
    """The program itself put a run aside. Its checkpoint is saved."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean NAME?"`` with the known name nearest to a misspelt word, or an empty string."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to a misspelt word, or None if none is near. Swapped letters are nearest."""
    near = difflib.get_close_matches(word, list(known), n=5, cutoff=0.7)
    return next((name for name in near if sorted(name) == sorted(word)), next(iter(near), None))


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """Raise `UserError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UserError(unknown(key, value, choices))


def unknown(key: str, value: str, choices: Collection[str], more: str = "") -> str:
    """Return the message about a value that is none of ``choices``: the nearest of them first, and ``more`` last.

    >>> unknown("method", "loar", ["ft", "lora"])
    'method=loar is not known; did you mean lora? Choose one of: ft, lora'
    """
    near = did_you_mean(str(value), choices)
    choose = f"{near} Choose" if near else "; choose"
    return f"{key}={printable(str(value))} is not known{choose} one of: {', '.join(choices)}{more}"


def cannot_be_read(path: str, error: OSError) -> UserError:
    """Return the error about a file in a folder of ours that the system does not let us read."""
    remedy = "its owner can let you, as by chmod g+r" if isinstance(error, PermissionError) else "move it away"
    return UserError(f"{path} cannot be read: {error.strerror}; {remedy}")


def check_pattern(key: str, value: str) -> None:
    """Raise `UserError` unless ``value`` is a regular expression, in every version of Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            re.compile(f"(?:{value})")  # grouped, as when it is used: inline flags must come first
    except re.error as error:
        quoting = "single quotes keep a shell from changing one"
        raise UserError(f"{key}={printable(value)} is not a regular expression: {error} ({quoting})") from error
    except FutureWarning as warning:
        reason = f"{warning}; put a backslash before a character that stands for itself"
        raise UserError(f"{key}={printable(value)} is not clear as a regular expression: {reason}") from warning


def at_least(key: str, value: float | None, least: float, *, above: bool = False) -> None:
    """Raise `UserError` unless ``value`` is None or a finite number >= ``least`` (> with ``above``)."""
    if value is None:
        return
    fits = (value > least if above else value >= least) and value < float("inf")
    if not fits:  # NaN compares false with everything, so it is rejected too
        raise UserError(f"{key}={value} is out of range; it must be {'above' if above else 'at least'} {least:g}")


def user_error_in(error: BaseException | None) -> UserError | None:
    """Return the `UserError` that a library wrapped into an error of its own, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
