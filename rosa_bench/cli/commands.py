"""Find the commands from the files in this folder, without importing them."""

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rosa_bench.system.errors import UserError, did_you_mean

DEFAULT = "run"  # for arguments that name no command


class Command(Protocol):
    """The module of a command."""

    main: Callable[[list[str]], None]


@cache
def commands() -> dict[str, str]:
    """Return the commands in alphabetical order: name -> help text, which is the module's docstring."""
    texts = {path.stem: _docstring(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: text for name, text in texts.items() if f"\nUsage: rosa-bench {name}" in f"\n{text}"}


def load(name: str) -> Command:
    """Import a command. Raises `UserError` for an unknown one."""
    if name not in commands():
        known = list(commands())
        raise UserError(f"{name} is not a command{did_you_mean(name, known)} (commands: {', '.join(known)})")
    return cast(Command, import_module(f"rosa_bench.cli.{name}"))


def summary(text: str) -> str:
    """Return the first sentence of a help text, without its full stop."""
    return " ".join(text.partition("\n\n")[0].split()).removesuffix(".")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
