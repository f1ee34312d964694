"""``rosa-bench figures``: draw figures from records as SVG, and PNG or PDF if asked, each with its caption."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich import get_console
from rich.markdown import Markdown
from rich.text import Text

from rosa_bench.records.find import elsewhere
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.selection.select import Group, select
from rosa_bench.report.cells.settings import variant_of
from rosa_bench.report.cells.words.unshown import REPEATED, not_shown, unshown
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.headline import headline
from rosa_bench.report.figures.paper import figure2, figure3, figure4, figure5, figure6
from rosa_bench.report.figures.studies import (
    capacity,
    language,
    lr_changed,
    lr_losses,
    lr_sensitivity,
    memory,
    methods,
    resampling,
)
from rosa_bench.system.errors import UserError

# To add a figure, add a file like figures/paper/figure2.py and list it here. A drawer returns None without data.
DRAWERS: tuple[Callable[[list[Group]], Drawing | None], ...] = (
    headline.draw,
    figure2.draw,
    figure3.draw,
    figure4.draw,
    figure6.draw,
    resampling.draw,
    capacity.draw,
    language.draw,
    memory.draw_memorised,
    memory.draw_texts,
    methods.draw,
)
# These need all runs, not only the selected ones: every learning rate, or a selection among runs with a spectrum.
DRAWERS_OF_ALL_RUNS: tuple[Callable[[list[RunRecord]], Drawing | None], ...] = (
    figure5.draw,
    lr_sensitivity.draw,
    lr_losses.draw,
    lr_changed.draw,
)


def make_figures(results_dir: Path, *, kind: str = "svg") -> None:
    """Draw every figure that the records under ``results_dir`` allow into its ``figures``, and print the captions.

    ``kind``: ``png`` or ``pdf`` writes pictures of that kind besides SVG.
    Files that are not records are skipped and named in the log. Raises `UserError` if there is nothing to draw.
    """
    records = load_records(results_dir)
    drawings = draw_figures(records)
    if not drawings:
        unread = f" ({records.unread})" if records.unread else ""
        raise UserError(
            f"results_dir={results_dir} has no completed run that a figure needs{unread}; "
            f"run an experiment first, for example rosa-bench -m +experiment=figure2{elsewhere(results_dir)}"
        )
    console = get_console()
    for drawing in drawings:
        paths = drawing.write(results_dir / "figures", dict.fromkeys(["svg", kind]))
        console.print(Markdown(drawing.caption))
        console.print(Text(f"written to {', '.join(map(str, paths))}"), soft_wrap=True)
    shown = {run for drawing in drawings for run in drawing.runs}
    if left := not_shown(unshown(records, shown, why_not_drawn(records)), len(records)):
        console.print(Text(left), soft_wrap=True)
    records.remind()


def why_not_drawn(records: Sequence[RunRecord]) -> Callable[[RunRecord], str]:
    """Return a function that says why a completed run is in no figure."""
    tried = {run.id: cell for group in select(records) for cell in group.cells.values() for run in cell.tried}
    chosen = {run.id for cell in tried.values() for run in cell.runs}

    def why(run: RunRecord) -> str:
        if run.id not in tried:
            return REPEATED
        if run.id not in chosen:
            return "at learning rates that were not chosen"
        if variant_of(run).changes:
            return "of methods with changed settings, beside the method without"
        if not run.scores.epochs:
            return "without a record of their epochs"
        return "in settings, models or tasks beyond the panels of each figure"

    return why


def draw_figures(records: list[RunRecord]) -> list[Drawing]:
    """Return every figure that ``records`` allow."""
    groups = select(records)
    drawn = [*(draw(groups) for draw in DRAWERS), *(draw(records) for draw in DRAWERS_OF_ALL_RUNS)]
    return [drawing for drawing in drawn if drawing]
