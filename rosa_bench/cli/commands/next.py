"""Print the commands for runs that the tables still lack; run nothing.

Usage: rosa-bench next [KEY=VALUE ...]

Settings that tell runs apart (task=cola,rte method=rosa rank=2) restrict it to such runs. Settings that change no score
(device=, data_dir=, +launch=joblib) are added to every command.

Examples:
  rosa-bench next
  rosa-bench next task=cola,rte method=rosa seeds=3 data_dir=~/data
  rosa-bench next | sh
"""

import sys
from dataclasses import dataclass

from rosa_bench.cli.messages import report
from rosa_bench.cli.options import FromRecords, options_and_settings, split
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench next``."""

    seeds: int = setting("how many seeds the chosen learning rate should have", default=5, at_least=1, at_most=1000)


def main(arguments: list[str]) -> None:
    """Print the commands."""
    from rich import get_console

    from rosa_bench.config.composing.compose import composing
    from rosa_bench.config.files.preset import presets_in
    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.config.overrides.mistakes import check_overrides, check_setting
    from rosa_bench.records.store import load_records
    from rosa_bench.report.comparison import tells_runs_apart, value_of, values_of
    from rosa_bench.report.make_tables import searched
    from rosa_bench.report.next import next_commands
    from rosa_bench.report.show.following import UNPLACED

    options, others = options_and_settings(Options, arguments)
    check_overrides(others)
    about, added = split(others, tells_runs_apart)
    among = values_of(about)
    for key in among:
        check_setting(key)
    if chosen_here := among.keys() & {"lr", "seed"}:
        raise UserError(f"rosa-bench next chooses lr and seed itself; leave out: {', '.join(sorted(chosen_here))}")
    if presets := presets_in(added):
        raise UserError(
            f"+experiment={presets[0]} would change the runs that rosa-bench next asks for; leave it out, and restrict "
            "next by settings that the preset's runs share, such as limit_train=2000"
        )
    with composing() as composer:
        added = spelled(added)
        composer.expand(added)  # a mistake is reported here, not by every command that is printed
    found = load_records(options.folder)
    kept = [run for run in searched(found) if all(value_of(run, key) in values for key, values in among.items())]
    if not kept:
        of = f" of {' '.join(about)}" if about else ""
        why = "run something first"
        if found and not searched(found):
            why = "its runs are regressions, whose learning rates are not searched for"
        raise UserError(f"results_dir={options.results_dir} holds no runs{of} to continue from; {why}")
    added += spelled([argument for argument in arguments if argument.startswith("results_dir=")])
    for command in next_commands(kept, seeds=options.seeds, more=added):
        _check_encoding(command)
        get_console().out(command, highlight=False)  # unlike print, it ends quietly if head has read enough
    found.remind()
    placed = [run for run in kept if not run.data.source.startswith(UNPLACED)]
    if placed and not {"data", "data_dir"} & {argument.partition("=")[0] for argument in added}:
        report("rows came from files; give next the data= or data_dir= that these runs had, and its commands have it")


def _check_encoding(command: str) -> None:
    """Raise `UserError` if the output's encoding would change a command, which a shell may be about to run."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        command.encode(encoding)
    except UnicodeEncodeError as error:
        letter = ascii(command[error.start])
        raise UserError(
            f"a command has the letter {letter}, which {encoding} lacks; set PYTHONIOENCODING=utf-8"
        ) from error
