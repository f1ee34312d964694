"""``rosa-bench figures``: from records to PNG and SVG, each with its caption."""

from collections.abc import Callable
from pathlib import Path

from rich import get_console
from rich.markdown import Markdown
from rich.text import Text

from rosa_bench.errors import UserError
from rosa_bench.record import load_records
from rosa_bench.report import figure2
from rosa_bench.report.figure import Drawing
from rosa_bench.report.select import Group, select

# Another figure is another file like figure2.py, and its name here. Each gives none where it has nothing to draw.
DRAWERS: tuple[Callable[[list[Group]], Drawing | None], ...] = (figure2.draw,)


def make_figures(results_dir: Path) -> None:
    """Draw every figure that the records under ``results_dir`` allow, into its ``figures``, and print the captions.

    Raises `UserError` when there is none.
    """
    groups = select(load_records(results_dir))
    drawings = [drawing for draw in DRAWERS if (drawing := draw(groups))]
    if not drawings:
        raise UserError(
            f"results_dir={results_dir} holds no completed run that a figure is made of; "
            "run one of its presets first, as rosa-bench -m +experiment=figure2 does"
        )
    console = get_console()
    for drawing in drawings:
        paths = drawing.write(results_dir / "figures")
        console.print(Markdown(drawing.caption))
        console.print(Text(f"written to {', '.join(map(str, paths))}"), soft_wrap=True)
