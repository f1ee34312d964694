"""``rosa-bench tables``: write tables as Markdown, LaTeX and CSV from records, and print them."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from rich import get_console
from rich.text import Text

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.select import Group, select
from rosa_bench.report.tables import collapses, table1, table2, table3, table4, table5, train_loss
from rosa_bench.report.tables.runs import run_rows
from rosa_bench.report.tables.table import Table
from rosa_bench.report.writers.latex import latex
from rosa_bench.report.writers.markdown import markdown
from rosa_bench.report.writers.terminal import show
from rosa_bench.report.writers.tidy_csv import tidy_csv
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import write_atomic

# To add a table, add a file like table2.py and list it here.
BUILDERS: tuple[Callable[[list[Group]], Table], ...] = (
    table1.build,
    table2.build,
    table3.build,
    table4.build,
    table5.build,
    collapses.build,
    train_loss.build,
)


def make_tables(results_dir: Path, *, write: bool) -> None:
    """Make and print every table from the records under ``results_dir``. With ``write``, save them in its ``tables``.

    Files that are not records are skipped and named in the log. Raises `UserError` if there is no completed run.
    """
    found = load_records(results_dir)
    records = tabled(found)
    if not any(record.status == "completed" for record in records):
        lack = f"no completed run ({counted(records)})" if records else "no runs"
        lack += f" ({found.unread})" if found.unread else ""
        raise UserError(
            f"results_dir={results_dir} has {lack}; run something first, for example rosa-bench task=cola, "
            "or set results_dir= to the folder that contains runs/"
        )
    tables = build_tables(records)
    if not tables:
        raise UserError(
            f"results_dir={results_dir} has {counted(records)}, all with pad_to_max=true, which only Table 1 uses "
            "(batches of 32 on CoLA); run with pad_to_max=false for a table of scores"
        )
    # Write before printing, so that the files exist even if the reader closes the pipe early.
    paths = []
    if write:
        folder = results_dir / "tables"
        paths = [path for table in tables for path in write_table(table, folder, counted(records))]
        paths.append(folder / "runs.csv")
        write_atomic(paths[-1], tidy_csv(run_rows(found)))
    console = get_console()
    for table in tables:
        show(table, console)
        console.print()
    console.print(Text(counted(records)), soft_wrap=True)
    if paths:
        console.print(Text(f"written to {', '.join(map(str, paths))}"), soft_wrap=True)
    found.remind()


def tabled(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Keep the records that tables show: those whose metric is a score, not an error."""
    return [record for record in records if not record.scores.lower_is_better]


def build_tables(records: Iterable[RunRecord]) -> list[Table]:
    """Build every table that has an entry from these records."""
    groups = select(records)
    return [table for build in BUILDERS if (table := build(groups)).sections]


def write_table(table: Table, folder: Path, counts: str) -> list[Path]:
    """Write a table as Markdown, LaTeX and CSV, and return the paths. ``counts`` states the number of runs."""
    texts = {".md": markdown(table, counts), ".tex": latex(table, counts), ".csv": tidy_csv(table.tidy)}
    paths = [folder / f"{table.name}{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def counted(records: list[RunRecord]) -> str:
    """Count runs by status: ``12 completed runs; not tabled: 1 failed, 2 interrupted``."""
    counts = Counter(record.status for record in records)
    completed = counts.pop("completed", 0)
    others = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    runs = f"{completed} completed run{'' if completed == 1 else 's'}"
    return f"{runs}; not tabled: {others}" if others else runs
