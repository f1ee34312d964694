"""A command's arguments: options, given as KEY=VALUE and checked against a dataclass; flags and overrides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from rosa_bench.system.errors import UserError, did_you_mean
from rosa_bench.system.setting import Checked, setting

T = TypeVar("T")
MULTIRUN = ("-m", "--multirun")
CONFIG_DIR = ("--config-dir", "-cd")
ALL = "--all"


@dataclass
class FromRecords(Checked):
    """Options of every command that reads records."""

    results_dir: str = setting("folder with the records in runs/", default="results", is_folder=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder.is_file():
            raise UserError(f"results_dir={self.results_dir} is a file; give the folder that contains runs/")

    @property
    def folder(self) -> Path:
        """``results_dir`` as a path."""
        return Path(self.results_dir).expanduser()


def parse_options(kind: type[T], arguments: Sequence[str]) -> T:
    """Return an instance of the dataclass ``kind``, filled from KEY=VALUE arguments.

    Raises `UserError` for an argument of another form, an unknown key, and a value of another type or out of range.
    """
    from rosa_bench.config.build import typed
    from rosa_bench.config.declared import hints
    from rosa_bench.config.overrides.grammar import text_of, value_of

    known = names_of(kind)
    listed = f"(options: {', '.join(known)})"
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            near = "" if key in known else did_you_mean(key, known)
            raise UserError(f"{argument} is not KEY=VALUE{near} {listed}")
        if key not in known:
            raise UserError(f"{key} is not an option{did_you_mean(key, known)} {listed}")
        values[key] = text_of(value) if hints(kind)[key] is str else value_of(value)
    return typed(kind, values)


def options_and_settings(kind: type[T], arguments: Sequence[str]) -> tuple[T, list[str]]:
    """Return a command's options, and the other KEY=VALUE arguments, which are settings of runs.

    Raises `UserError` as `parse_options` does, also for an argument that is not KEY=VALUE.
    """
    bare = [argument for argument in arguments if "=" not in argument]  # mistakes, reported like the options'
    own, others = split(arguments, lambda key: key in {*names_of(kind), *bare})
    return parse_options(kind, own), others


def options_and_filters(kind: type[T], arguments: Sequence[str]) -> tuple[T, list[str], bool]:
    """Return what `options_and_settings` does, where settings restrict the runs, and whether ``--all`` is given."""
    options, filters = options_and_settings(kind, [argument for argument in arguments if argument != ALL])
    return options, filters, ALL in arguments


def own_config_dir(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take ``--config-dir FOLDER`` out of the arguments of any command. Return the folder, and the other arguments.

    Raises `UserError` if the folder is missing.

    >>> own_config_dir(["plan", "--config-dir", "mine", "model=ours"]), own_config_dir(["--config-dir=mine", "next"])
    (('mine', ['plan', 'model=ours']), ('mine', ['next']))
    """
    folder, others, rest = None, [], list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in CONFIG_DIR:
            others.append(f"{flag}{equals}{value}")
            continue
        folder = value if equals else rest.pop(0) if rest else ""
        if not folder:
            raise UserError(f"{flag} needs a folder with yaml files of your own, as {flag} my_conf")
    return folder, others


def names_of(kind: type) -> list[str]:
    """Return the names of a command's options."""
    return [field.name for field in fields(kind)]


def split(arguments: Sequence[str], wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Split KEY=VALUE arguments into those whose key is ``wanted``, and the others."""
    ours = [argument for argument in arguments if wanted(argument.partition("=")[0])]
    return ours, [argument for argument in arguments if argument not in ours]


def separate(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into flags with their values, and overrides, so that their order does not matter.

    Raises `UserError` for an unknown flag, and for a word that is neither.

    >>> separate(["task=cola", "-m", "seed=0,1", "--cfg", "job"])
    (['-m', '--cfg', 'job'], ['task=cola', 'seed=0,1'])
    """
    from hydra._internal.utils import get_args_parser

    overrides = [argument for argument in arguments if argument[:1] not in ("", "-") and _is_override(argument)]
    flags = [argument for argument in arguments if argument not in overrides]
    parser = get_args_parser()

    def refuse(message: str) -> None:
        what = message.removeprefix("argument ")
        raise UserError(f"{what}; settings are KEY=VALUE, as task=cola; rosa-bench --help and --hydra-help list them")

    parser.error = refuse  # pyrefly: ignore[bad-assignment]
    parsed = parser.parse_args(flags)
    if parsed.resolve and not parsed.cfg:
        raise UserError("--resolve goes with --cfg, as --cfg job --resolve")
    for word in parsed.overrides:
        raise UserError(f"{word or 'an empty argument'} is not KEY=VALUE; for example task=cola rank=8")
    return flags, overrides


def _is_override(argument: str) -> bool:
    return "=" in argument or argument.startswith("~")
