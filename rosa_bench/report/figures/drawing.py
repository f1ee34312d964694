"""A drawn figure with its caption, and the style that all figures share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.typing import ColorType

from rosa_bench.report.writers.markdown import escape
from rosa_bench.report.writers.tidy_csv import tidy_csv
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.text.printable import cut, printable

STYLE: dict[Any, Any] = {  # Any: matplotlib types the keys as a union of literals
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType, as publishers ask
    "svg.hashsalt": "rosa_bench",  # the same records give the same bytes
}
# Kinds of pictures, and the metadata that savefig would add.
UNDATED = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
LONGEST = 200  # characters of a text in a picture
WIDTH_IN = 7.0  # across both columns of an article
SMALL = 6.5  # points, of names beside what is drawn


@dataclass(frozen=True)
class Drawing:
    """A figure, its caption in Markdown, and the ids of the runs that it shows. ``tidy`` has rows for a csv, if any."""

    name: str
    figure: Figure
    caption: str
    runs: frozenset[str]
    tidy: Sequence[Mapping[str, str]] = ()

    def write(self, folder: Path, kinds: Iterable[str] = ("svg",)) -> list[Path]:
        """Write a picture of each kind, ``<name>.md`` with its caption, and any csv. Return the paths."""
        paths = []
        for kind in kinds:
            paths.append(folder / f"{self.name}.{kind}")
            write_atomic(paths[-1], self.picture(kind))
        paths.append(folder / f"{self.name}.md")
        write_atomic(paths[-1], f"![{self.name}]({self.name}.svg)\n\n{self.caption}\n")
        if self.tidy:
            paths.append(folder / f"{self.name}.csv")
            write_atomic(paths[-1], tidy_csv(self.tidy))
        return paths

    def picture(self, kind: str) -> bytes:
        """Render the figure as ``svg``, ``png`` or ``pdf``. The same records give the same bytes."""
        if kind not in self._pictures:
            file = BytesIO()
            with styled():
                self.laid_out.savefig(file, format=kind, metadata=UNDATED[kind])
            self._pictures[kind] = file.getvalue()
        return self._pictures[kind]

    @cached_property
    def laid_out(self) -> Figure:
        """The figure with everything in its final place: a layout would start from that of the picture before."""
        FigureCanvasAgg(self.figure)
        with styled():
            if layout := self.figure.get_layout_engine():
                for _ in range(2):  # ticks, and with them the widths of their labels, change once axes have their size
                    layout.execute(self.figure)
            self.figure.set_layout_engine(None)  # with "none", savefig would draw everything once for a layout
        return self.figure

    @cached_property
    def _pictures(self) -> dict[str, bytes]:
        return {}


def caption_text(
    title: str, text: str, *, sources: Sequence[str] = (), tables: Iterable[Sequence[Sequence[str]]] = ()
) -> str:
    """Return a caption in Markdown: its bold title, a paragraph, a list of sources, and tables (rows of cells)."""
    parts = [f"**{escape(title)}** {escape(text)}"]
    if sources:
        parts.append("\n".join(f"- {escape(source)}" for source in sources))
    for table in tables:
        head, *rows = [[escape(cell) for cell in row] for row in table]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)))
    return "\n\n".join(parts)


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside the block in our style alone, whatever a user's ``matplotlibrc`` says."""
    with style.context(["default", STYLE]):
        yield


def drawn(text: str, *, longest: int = LONGEST) -> str:
    r"""Return a record's text as a figure's label: matplotlib would read dollars as formulas, and hide ``_name``.

    Characters that cannot be seen, or that the font lacks, become escapes such as ``\u6f22``; for the latter matplotlib
    would warn and draw boxes. The label shows at most ``longest`` characters, counted with the escapes.
    """
    glyphs = _glyphs()
    text = "".join(one if ord(one) in glyphs else one.encode("unicode_escape").decode() for one in printable(text))
    text = cut(text, longest).replace("$", r"\$")
    return f"\N{NO-BREAK SPACE}{text}" if text.startswith("_") else text


@cache
def _glyphs() -> frozenset[int]:
    """Return the code points that the font of our style can draw."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def faded(colour: ColorType, strength: float) -> tuple[float, float, float]:
    """Mix a colour with white. ``strength`` 1 keeps the colour, 0 gives white."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def letter(number: int) -> str:
    """Return a panel's letter: ``(a)``, ``(b)``, ..."""
    return f"({ascii_lowercase[number]})"
