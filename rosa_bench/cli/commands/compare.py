"""Show what a setting is worth, all else equal: differences task by task and overall, paired over seeds.

Usage: rosa-bench compare KEY=VALUE,VALUE ... [KEY=VALUE ...]

The setting with several values is compared: each value minus the last. The others restrict the runs.

Examples:
  rosa-bench compare method=rosa,lora model=mpnet_base
  rosa-bench compare method=rosa method.resample_every=1,2,0 protocol=fair lr=6e-4
  rosa-bench compare method=rosa,lora model=mpnet_base lr_by=seed
  rosa-bench compare method=ft,lora task=e2e_nlg metric=loss
"""

from dataclasses import dataclass

from rosa_bench.cli.options import FromRecords, options_and_settings
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting


@dataclass
class Options(FromRecords):
    """Options of ``rosa-bench compare``."""

    lr_by: str = setting(
        "choose learning rates by the median or mean over seeds, or each seed for itself",
        default="median", choices=("median", "mean", "seed"),
    )  # fmt: skip
    metric: str | None = setting("compare this score of the records; null: the one that they report", default=None)


def main(arguments: list[str]) -> None:
    """Print the comparison."""
    from rich import get_console
    from rich.text import Text

    from rosa_bench.config.overrides.mistakes import check_setting
    from rosa_bench.records.find import elsewhere
    from rosa_bench.records.record import RunRecord
    from rosa_bench.records.store import load_records
    from rosa_bench.report.cells.selection.reported import reporting
    from rosa_bench.report.cells.words.unshown import not_shown, unshown
    from rosa_bench.report.compare import compare, why_not
    from rosa_bench.report.comparison import comparison
    from rosa_bench.report.writers.terminal import show_sections

    options, others = options_and_settings(Options, arguments)
    for argument in others:
        check_setting(argument.partition("=")[0].lstrip("+"))
    asked = comparison(others)
    found = load_records(options.folder)
    if not any(run.status == "completed" for run in found):
        other = elsewhere(options.folder)
        raise UserError(f"results_dir={options.results_dir} holds no completed run; run something first{other}")
    runs = found if options.metric is None else reporting(options.metric, found)
    sections, shown, how = compare(asked, runs, rule=options.lr_by)
    there = {run.id for run in runs}

    def why(run: RunRecord) -> str:
        return why_not(asked, run) if run.id in there else f"without the score {options.metric}"

    console = get_console()
    if options.metric is not None:
        console.print(Text(f"Score: {options.metric}.", style="dim"))
    console.print(Text(how, style="dim"))
    show_sections(sections, console)
    if left := not_shown(unshown(found, shown, why), len(found)):
        console.print()
        console.print(Text(left), soft_wrap=True)
    found.remind()
