"""Find the commands from the files in `rosa_bench/cli/commands`, without importing them."""

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rosa_bench.config.files.folder import files_in
from rosa_bench.system.errors import UserError, nearest

DEFAULT = "run"  # for arguments that name no command
CHOSEN = {"experiment": "+experiment", "model": "model", "task": "task", "method": "method"}


class Command(Protocol):
    """The module of a command."""

    main: Callable[[list[str]], None]


@cache
def commands() -> dict[str, str]:
    """Return the commands in alphabetical order: name -> help text, which is the module's docstring."""
    texts = {path.stem: _docstring(path) for path in sorted((Path(__file__).parent / "commands").glob("*.py"))}
    return {name: text for name, text in texts.items() if f"\nUsage: rosa-bench {name}" in f"\n{text}"}


def load(name: str) -> Command:
    """Import a command. Raises `UserError` for an unknown one, which may be a choice whose group was left out."""
    if name not in commands():
        from rosa_bench.config.overrides.mistakes import settings

        written = {**choices(), **{command: command for command in (*commands(), "help")}}
        near = nearest(name, written)
        meant = f"; did you mean {written[near]}?" if near else ""
        if name in settings():
            meant = f"; did you mean {name}=VALUE?"
        raise UserError(f"{name} is not a command{meant} (commands: {', '.join(commands())})")
    return cast(Command, import_module(f"rosa_bench.cli.commands.{name}"))


def choices() -> dict[str, str]:
    """Return how each task, model, method and preset is written, by its name: ``lora`` -> ``method=lora``."""
    return {name: f"{written}={name}" for group, written in CHOSEN.items() for name in files_in(group)}


def summary(text: str) -> str:
    """Return the first sentence of a help text, without its full stop."""
    return " ".join(text.partition("\n\n")[0].split()).removesuffix(".")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
