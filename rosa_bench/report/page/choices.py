"""The choices that ``rosa-bench choose`` left in a results folder: plans as JSON, answers as Markdown."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rosa_bench.report.writers.html import caption_html
from rosa_bench.system.text.printable import printable

if TYPE_CHECKING:
    from markupsafe import Markup

LONGEST = 200_000  # characters; an answer has a few thousand
LOWER = 3  # levels by which headings move down, to be below the page's own


@dataclass(frozen=True)
class Recommended:
    """A choice: its id, its title, and its answer; no answer if it was stopped before."""

    id: str
    title: str
    answer: "Markup | None"


def recommended(results_dir: Path) -> Iterator[Recommended]:
    """Yield every choice of a results folder, by id."""
    folder = results_dir / "choose"
    for name in sorted({path.stem for ending in ("json", "md") for path in folder.glob(f"*.{ending}")}):
        text = _text(folder / f"{name}.md")
        first, _, rest = text.partition("\n")
        answer = caption_html(rest, lower=LOWER) if text else None
        yield Recommended(printable(name), printable(first.lstrip("# ")) or printable(name), answer)


def _text(path: Path) -> str:
    """Return the text of a file, without invisible characters; empty if there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return printable(file.read(LONGEST), keep="\n\t")
    except OSError:
        return ""
