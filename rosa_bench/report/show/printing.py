"""Print one run to the terminal, in lines that fit it. Texts of a record cannot move the cursor."""

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosa_bench.records.record import RunRecord
from rosa_bench.report.show.curve import Curve, curve
from rosa_bench.report.show.files import files
from rosa_bench.report.show.following import following, wrapped
from rosa_bench.report.show.one_run import Block, blocks, state
from rosa_bench.system.text.printable import printable

NAME_WIDTH = 11  # of a line's name, the same in all blocks
MARK = "*"  # beside the selected epoch


def show_run(run: RunRecord, path: Path, output_dir: Path, *, console: Console, places: Iterable[str] = ()) -> None:
    """Print a run. ``path`` is its record's; ``places`` are options to repeat in the commands that come next."""
    console.print(Text(printable(run.id), style="bold"), soft_wrap=True)
    console.print(Text(printable(state(run))))
    for block in blocks(run, path):
        _heading(block.title, console)
        _show_block(block, console)
    if (found := curve(run)) is not None:
        _heading(found.title, console)
        _show_curve(found, console)
    _heading("Files", console)
    for name, place in files(run, path, output_dir):
        line = Text(f"  {name:<{NAME_WIDTH}}  ", style="dim").append(printable(str(place)), style="default")
        console.print(line, soft_wrap=True)  # a path is never broken
    if commands := list(following(run, path, output_dir, list(places))):
        _heading("Next", console)
    for what, command in commands:
        console.print(Text(f"  {printable(what)}{':' if command else ''}", style="dim"))
        for line in wrapped(command) if command else []:
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)


def _heading(title: str, console: Console) -> None:
    console.print()
    console.print(Text(printable(title), style="bold"))


def _show_block(block: Block, console: Console) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=NAME_WIDTH + 2, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in block.lines:
        table.add_row(Text(f"  {name}", style="dim"), Text(printable(text)))
    console.print(table)


def _show_curve(found: Curve, console: Console) -> None:
    block = "█" if console.encoding.startswith("utf") else "#"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for column in found.columns:
        table.add_column(Text(printable(column)), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for line in found.lines:
        figures = (f"{line.epoch}{MARK if line.selected else ' '}", *line.texts)
        table.add_row(*map(Text, figures), Text(block * line.bar))
    console.print(table)
    if any(line.selected for line in found.lines):
        console.print(Text(f"{MARK} the selected {found.columns[0]}", style="dim"))
