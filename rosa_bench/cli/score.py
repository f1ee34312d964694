"""``rosa-bench score``: the scores of saved generations, without a model."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosa_bench.metrics.text_overlap import SIGNATURE, score
from rosa_bench.records.generations import Generation, read

# Title, and by what the figure is multiplied: fractions are shown in per cent, NIST on its own scale.
COLUMNS = {"bleu": ("BLEU", 100), "bleu_cased": ("BLEU, cased", 100), "nist": ("NIST", 1)}


def show_scores(paths: list[Path], console: Console) -> None:
    """Print one row a file of generations. Raises `UserError`, before anything is scored, where one is no such file."""
    files = {path: read(path) for path in paths}
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("generations", overflow="fold")
    for title in ("inputs", "references", *(title for title, _ in COLUMNS.values())):
        table.add_column(title, justify="right")
    for path, rows in files.items():
        figures = score([row.output for row in rows], [row.references for row in rows])
        shown = (f"{figures[name] * scale:.2f}" for name, (_, scale) in COLUMNS.items())
        table.add_row(Text(str(path)), str(len(rows)), _reference_counts(rows), *shown)
    console.print(table)
    for line in SIGNATURE.split("; "):
        console.print(Text(line), soft_wrap=True)


def _reference_counts(rows: list[Generation]) -> str:
    """``8``, or ``1 to 43``: how many references an input has."""
    counts = {len(row.references) for row in rows}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
