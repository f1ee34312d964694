"""The words behind the name of a benchmark or study: each is read as its kind, or refused in one line."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rosa_bench.system.errors import UserError, check_pattern, unknown

Kind = Callable[[str], Any]  # raises UserError for a word that it cannot read
RESULTS = Path("results/benchmarks")


def start(main: Callable[..., None], usage: str | None, *kinds: Kind, rest: Kind | None = None) -> None:
    """Call a script's ``main`` with the words on the command line.

    The first words are of these ``kinds``, all further ones of kind ``rest``. ``--help`` prints ``usage``. A word that
    cannot be read, and every other `UserError`, ends the program with one line and exit status 2.
    """
    given = sys.argv[1:]
    if {"--help", "-h"} & set(given):
        print((usage or "").strip())
        return
    try:
        main(*read(given, *kinds, rest=rest, needed=_needed(main)))
    except UserError as error:
        print(f"{error} (--help shows the usage)", file=sys.stderr)
        raise SystemExit(2) from error


def read(given: list[str], *kinds: Kind, rest: Kind | None = None, needed: int = 0) -> list[Any]:
    """Return the values of words, of which at least ``needed`` are given. Raises `UserError`."""
    if options := [word for word in given if word.startswith("-")]:
        raise UserError(f"{options[0]} is not an option")
    if len(given) < needed:
        raise UserError("too few words")
    if rest is None and len(given) > len(kinds):
        raise UserError(f"{given[len(kinds)]} is one word too many")
    further = [rest] * (len(given) - len(kinds)) if rest is not None else []
    return [kind(word) for kind, word in zip([*kinds, *further], given, strict=False)]


def existing_folder(word: str) -> Path:
    """Read a folder that exists."""
    if not (path := Path(word).expanduser()).is_dir():
        raise UserError(f"{word} is not a folder that exists")
    return path


def new_folder(word: str) -> Path:
    """Read a folder that may not exist yet."""
    return Path(word).expanduser()


def number(word: str) -> float:
    """Read a number."""
    return _converted(float, word, "a number")


def whole_number(word: str) -> int:
    """Read a whole number."""
    return _converted(int, word, "a whole number")


def regular_expression(word: str) -> str:
    """Read a regular expression."""
    check_pattern("pattern", word)
    return word


def one_of(*names: str) -> Kind:
    """Return the kind of words that are one of these."""

    def kind(word: str) -> str:
        if word not in names:
            raise UserError(unknown("word", word, names))
        return word

    return kind


def setting(word: str) -> str:
    """Read a setting of a run."""
    if "=" not in word and not word.startswith("~"):
        raise UserError(f"{word} is not KEY=VALUE")
    return word


def _converted(to: Callable[[str], Any], word: str, what: str) -> Any:
    try:
        return to(word)
    except ValueError as error:
        raise UserError(f"{word} is not {what}") from error


def _needed(main: Callable[..., None]) -> int:
    """Return how many arguments of a function have no default."""
    named = (one for one in inspect.signature(main).parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD)
    return sum(one.default is one.empty for one in named)
