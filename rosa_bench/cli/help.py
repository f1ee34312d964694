"""The help texts of the program and of its commands, made from docstrings, conf/ and the declarations of settings.

Imports no heavy library, not even Hydra.
"""

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, Field
from typing import Any

from rosa_bench.cli.command import DEFAULT, commands, load, summary
from rosa_bench.system.setting import Setting, settings_of
from rosa_bench.system.version import __version__

WIDEST = 118
COMPLETION = 'eval "$(rosa-bench -sc install=bash)"'
PROGRAM = f"""\
rosa-bench: fine-tune, compare, believe.

Usage:
{{usage}}

Commands:
{{commands}}

Examples:
{{examples}}

{{run}}

Tab completion, for bash:
  {COMPLETION}"""

USAGE = {
    "rosa-bench KEY=VALUE ...": "one run (rosa-bench run: the run of the default settings)",
    "rosa-bench -m KEY=VALUE,... ...": "a sweep: every combination",
    "rosa-bench COMMAND ...": "one of the commands below",
    "rosa-bench COMMAND --help": "what it does, its options, examples (also: rosa-bench help COMMAND)",
    "rosa-bench --config-dir FOLDER ...": "any of these, with yaml files of your own besides",
    "rosa-bench --version": "",
}
EXAMPLES = {
    "rosa-bench task=cola method=rosa rank=8": "one run",
    "rosa-bench -m task=cola,mrpc method=lora,rosa": "a sweep of four",
    "rosa-bench +experiment=smoke": "a preset: three runs in half a minute, nothing to download",
    "rosa-bench task=cola --cfg job --resolve": "print every setting of a run; run nothing",
}


def program_help() -> str:
    """Return the text of ``rosa-bench --help``."""
    listed = columns((name, summary(text)) for name, text in commands().items())
    usage, examples = columns(USAGE.items()), columns(EXAMPLES.items())
    return PROGRAM.format(commands=listed, usage=usage, examples=examples, run=f"{_groups()}\n\n{_settings()}")


def command_help(name: str) -> str:
    """Return the text of ``rosa-bench COMMAND --help``. Raises `UserError` for an unknown command."""
    module = load(name)
    parts = [_wrapped(part) for part in commands()[name].split("\n\n")]
    if options := getattr(module, "Options", None):
        parts.append(f"Options (KEY=VALUE):\n{options_text(options)}")
    if name == DEFAULT:
        parts += [_groups(), _settings()]
    return "\n\n".join(parts)


def version_text() -> str:
    """Return the version, and the commit if this is a checkout."""
    from rosa_bench.records.provenance import git_state

    git = git_state()
    if git.commit is None:
        return f"rosa-bench {__version__}"
    return f"rosa-bench {__version__} (commit {git.commit[:10]}{', with changes' if git.dirty else ''})"


def options_text(*kinds: type) -> str:
    """Return one entry for each setting of these dataclasses: name, default and help. Those without help are left out.

    >>> from dataclasses import dataclass
    >>> from rosa_bench.system.setting import setting
    >>> @dataclass
    ... class Options:
    ...     seeds: int = setting("how many seeds", default=5)
    ...     resume: str = setting("what to do", default="auto", choices=("auto", "never"))
    >>> print(options_text(Options))
      seeds=5      how many seeds
      resume=auto  what to do (auto, never)
    """
    declared = [pair for kind in kinds for pair in settings_of(kind) if pair[1].help]
    return columns((_name(field, known), _help(known)) for field, known in declared)


def _wrapped(paragraph: str) -> str:
    """Return a paragraph in lines that the terminal can show; one with indented lines, such as examples, as it is."""
    lines = paragraph.strip("\n").split("\n")
    if any(line.startswith(" ") for line in lines):
        return "\n".join(lines)
    return textwrap.fill(" ".join(lines), _width(), break_on_hyphens=False, break_long_words=False)


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns - 1)


def columns(rows: Iterable[tuple[str, str]], width: int | None = None) -> str:
    """Return rows of two columns, the second one wrapped at ``width``, by default that of the terminal.

    >>> print(columns([("a", "one"), ("long", "two")]))
      a     one
      long  two
    """
    rows = list(rows)
    width = width or _width()
    left = max(len(name) for name, _ in rows) + 4
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(20, width - left), break_on_hyphens=False) or [""]
        lines += [f"  {name:<{left - 2}}{wrapped[0]}", *(" " * left + line for line in wrapped[1:])]
    return "\n".join(line.rstrip() for line in lines)


def _name(field: Field, known: Setting) -> str:
    name = known.key or field.name
    return name if field.default is MISSING else f"{name}={_value(field.default)}"


def _value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _help(known: Setting) -> str:
    return f"{known.help} ({', '.join(known.choices)})" if known.choices else known.help


def _groups() -> str:
    """Return the configuration groups and their choices, as they are in conf/."""
    from rosa_bench.config.files.folder import files_in, groups

    listed = columns((f"{group}:", ", ".join(files_in(group))) for group in groups())
    return f"Groups (GROUP=NAME; +experiment=NAME, +launch=NAME):\n{listed}"


def _settings() -> str:
    from rosa_bench.config import schema

    text = options_text(schema.Plain, schema.Shorthand)
    return f"Settings and their defaults (KEY=VALUE; GROUP.KEY=VALUE inside a group):\n{text}"
