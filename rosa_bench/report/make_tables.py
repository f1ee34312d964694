"""``rosa-bench tables``: write tables as Markdown, LaTeX and CSV from records, and print them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich import get_console
from rich.console import Console
from rich.text import Text

from rosa_bench.records.find import elsewhere
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.selection.select import Group, select
from rosa_bench.report.cells.settings import setting_of
from rosa_bench.report.cells.words.facts import is_memorised, is_text, scores_references
from rosa_bench.report.cells.words.unshown import REPEATED, listed, unshown
from rosa_bench.report.filters import Filters, matching
from rosa_bench.report.tables import collapses, language, memorisation, methods, references, regression, train_loss
from rosa_bench.report.tables.building.table import Table
from rosa_bench.report.tables.paper import table1, table2, table3, table4, table5
from rosa_bench.report.tables.runs import run_rows
from rosa_bench.report.writers.latex import latex
from rosa_bench.report.writers.markdown import markdown
from rosa_bench.report.writers.terminal import show
from rosa_bench.report.writers.tidy_csv import tidy_csv
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic

Builder = Callable[[list[Group]], Table]
# To add a table, add a file like table2.py and list it here. Errors are never in a table of scores.
BUILDERS: tuple[Builder, ...] = (
    table1.build,
    table2.build,
    table3.build,
    table4.build,
    table5.build,
    collapses.build,
)


def make_tables(results_dir: Path, *, write: bool, wanted: Filters | None = None, first: int | None = None) -> None:
    """Make and print every table from the records under ``results_dir``. With ``write``, save them in its ``tables``.

    ``wanted`` restricts them to runs with these settings. Of each table the ``first`` sections are printed; None: all.
    Files that are not records are skipped and named in the log. Raises `UserError` if there is no completed run.
    """
    found = records = load_records(results_dir)
    if not any(record.status == "completed" for record in records):
        lack = f"no completed run ({counted(records)})" if records else "no runs"
        lack += f" ({found.unread})" if found.unread else ""
        raise UserError(
            f"results_dir={results_dir} has {lack}; run something first, for example rosa-bench task=cola, "
            f"or set results_dir= to the folder that contains runs/{elsewhere(results_dir)}"
        )
    if wanted:
        records = matching(records, wanted)
    built = build_families(records)
    tables = [table for _, some in built for table in some]
    if not tables and wanted:
        raise UserError(f"no table shows these runs ({counted(records)}); rosa-bench ls lists them")
    if not tables:
        raise UserError(
            f"results_dir={results_dir} has {counted(records)}, all with pad_to_max=true, which only Table 1 uses "
            "(batches of 32 on CoLA); run with pad_to_max=false for a table of scores"
        )
    # Write before printing, so that the files exist even if the reader closes the pipe early.
    paths = _write(built, found, results_dir / "tables") if write else []
    console = get_console()
    for table in tables:
        _print(table, first, console)
    console.print(Text(counted(records)), soft_wrap=True)
    if paths:
        console.print(Text(f"written to {', '.join(map(str, paths))}"), soft_wrap=True)
    found.remind()


def _print(table: Table, first: int | None, console: Console) -> None:
    """Print the ``first`` sections of a table, and say how many more there are."""
    show(replace(table, sections=table.sections[:first]), console)
    if more := table.sections[first:] if first else ():
        console.print()
        those = "it" if len(more) == 1 else "them"
        console.print(Text(f"... and {len(more)} more; rosa-bench tables --all prints {those}"), soft_wrap=True)
    console.print()


def _write(
    built: Iterable[tuple[list[RunRecord], list[Table]]], found: Iterable[RunRecord], folder: Path
) -> list[Path]:
    """Write the tables and a list of all runs, and return the paths. Raises `UserError` if one cannot be written."""
    runs = folder / "runs.csv"
    paths = []
    try:
        for records, tables in built:
            counts = counted(records) if tables else ""
            paths += [path for table in tables for path in write_table(table, folder, counts)]
        write_atomic(runs, tidy_csv(run_rows(found)))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; write=false only prints the tables") from error
    return [*paths, runs]


def searched(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Keep the records of tables whose learning rates are searched for: all but those of regressions."""
    return [record for record in records if not is_regression(record)]


def is_regression(record: RunRecord) -> bool:
    """Whether a run reports an error, and no loss of a text."""
    return record.scores.lower_is_better and not is_text(record) and not scores_references(record)


def families(records: Iterable[RunRecord]) -> list[tuple[list[RunRecord], tuple[Builder, ...]]]:
    """Divide records among the builders of their tables, in the order of the tables.

    Each record is in one part, in that of the fits unless its rows are memorised, and in that of the methods if it can
    be compared there.
    """
    known = list(records)
    errors = [run for run in known if run.scores.lower_is_better]
    memorised = [run for run in known if is_memorised(run) and not run.scores.lower_is_better]
    scored = [run for run in known if not is_memorised(run) and not run.scores.lower_is_better]
    referenced = [run for run in errors if scores_references(run)]
    return [
        (scored, BUILDERS),
        ([*scored, *errors], (train_loss.build,)),
        ([*scored, *referenced], (methods.build,)),
        (referenced, (references.build,)),
        ([run for run in errors if is_regression(run)], (regression.build,)),
        (memorised, (memorisation.build,)),
        ([run for run in errors if is_text(run)], (language.build,)),
    ]


def build_families(records: Iterable[RunRecord]) -> list[tuple[list[RunRecord], list[Table]]]:
    """Build every table that has an entry, beside the records that it is made from."""
    built = []
    for some, builders in families(records):
        groups = select(some)
        built.append((some, [table for build in builders if (table := build(groups)).sections]))
    return built


def build_tables(records: Iterable[RunRecord]) -> list[Table]:
    """Build every table that has an entry from these records."""
    return [table for _, tables in build_families(records) for table in tables]


def shown_in(records: Iterable[RunRecord]) -> set[str]:
    """Return the ids of the completed runs that are behind some figure of a table, at whatever learning rate."""
    return {
        run.id
        for group in select(records)
        for cell in group.cells.values()
        for run in cell.tried
        if not group.setting.is_timed or table1.is_timed(run)
    }


def write_table(table: Table, folder: Path, counts: str) -> list[Path]:
    """Write a table as Markdown, LaTeX and CSV, and return the paths. ``counts`` states the number of runs."""
    texts = {".md": markdown(table, counts), ".tex": latex(table, counts), ".csv": tidy_csv(table.tidy)}
    paths = [folder / f"{table.name}{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def counted(records: Sequence[RunRecord]) -> str:
    """Count runs, and those that no table shows: ``12 completed runs; not tabled: 1 failed, 2 interrupted``."""
    completed = sum(record.status == "completed" for record in records)
    left = unshown(records, shown_in(records), _why_not)
    runs = f"{completed} completed run{'' if completed == 1 else 's'}"
    return f"{runs}; not tabled: {listed(left)}" if left else runs


def _why_not(record: RunRecord) -> str:
    return TIMED_OTHERWISE if setting_of(record).is_timed else REPEATED


TIMED_OTHERWISE = "with pad_to_max=true that are not of Table 1"
