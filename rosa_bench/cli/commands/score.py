"""Score texts that a run has written, without its model: BLEU and NIST, one row per file.

Usage: rosa-bench score FILE ...

Each FILE has one JSON object per line, with prompt, output and references, as a run leaves it beside its record.

Examples:
  rosa-bench score results/runs/e2e_nlg/smollm2_135m/*.generations.jsonl
"""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosa_bench.metrics.text_overlap import SIGNATURE, score
from rosa_bench.records.generations import Generation, read
from rosa_bench.system.errors import UserError
from rosa_bench.system.text.printable import printable

# Title and factor of each score: fractions are shown in per cent, NIST on its own scale.
COLUMNS = {"bleu": ("BLEU", 100), "bleu_cased": ("BLEU, cased", 100), "nist": ("NIST", 1)}


def main(arguments: list[str]) -> None:
    """Score the files."""
    from rich import get_console

    if not arguments:
        raise UserError("usage: rosa-bench score FILE ...; rosa-bench score --help has an example")
    show_scores([Path(argument).expanduser() for argument in arguments], get_console())


def show_scores(paths: list[Path], console: Console) -> None:
    """Print one row per file. Raises `UserError`, before anything is scored, for a file that has no generations."""
    files = {path: read(path) for path in paths}
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("generations", overflow="fold")
    for title in ("inputs", "references", *(title for title, _ in COLUMNS.values())):
        table.add_column(title, justify="right")
    for path, rows in files.items():
        scores = score([row.output for row in rows], [row.references for row in rows])
        shown = (f"{scores[name] * scale:.2f}" for name, (_, scale) in COLUMNS.items())
        table.add_row(Text(printable(str(path))), str(len(rows)), _reference_counts(rows), *shown)
    console.print(table)
    for line in SIGNATURE.split("; "):
        console.print(Text(line), soft_wrap=True)


def _reference_counts(rows: list[Generation]) -> str:
    """Return how many references the inputs have: ``8``, or ``1 to 43``."""
    counts = {len(row.references) for row in rows}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
