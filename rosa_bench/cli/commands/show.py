"""Show one run: settings, scores with intervals, the curve of its training, memory, time, files, and what comes next.

Usage: rosa-bench show [RUN] [KEY=VALUE ...]

RUN is a run's id, its beginning or its last digits, the path of its record, or last, which is the default: the run that
was started last.

Examples:
  rosa-bench show
  rosa-bench show 1a2b3c4d5e
  rosa-bench show cola-roberta_base-rosa-r8 results_dir=outputs/quickstart
"""

from dataclasses import dataclass
from pathlib import Path

from rosa_bench.cli.options import FromRecords, names_of, parse_options
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench show``."""

    output_dir: str = setting(
        "the runs' output_dir, where checkpoints and adapters are", default="outputs", is_folder=True
    )


def main(arguments: list[str]) -> None:
    """Print one run."""
    names = [argument for argument in arguments if not _is_option(argument)]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(f"{names[-1]} is one too many; usage: rosa-bench show [RUN|last] [results_dir=FOLDER]")
    given = [argument for argument in arguments if argument not in names]
    options = parse_options(Options, given)

    from rich import get_console

    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.records.find import LAST, find_record
    from rosa_bench.report.show.printing import show_run

    run, path = find_record(names[0] if names else LAST, options.folder)
    show_run(run, path, Path(options.output_dir).expanduser(), console=get_console(), places=spelled(given))


def _is_option(argument: str) -> bool:
    """Return whether an argument is KEY=VALUE, rather than a run: a folder in a record's path may have such a name."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and (key in names_of(Options) or not argument.endswith(".json"))
