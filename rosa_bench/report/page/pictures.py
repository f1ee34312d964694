"""The figures of the page: packed SVG, the headline first."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.page.packing import packed
from rosa_bench.report.writers.html import caption_html

if TYPE_CHECKING:
    from markupsafe import Markup

HEADLINES = ("headline", "capacity")  # the first of them that is drawn is part of the answer
SIZE = re.compile(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"')


class Picture(NamedTuple):
    """A figure: its packed SVG, its size, its title, and its caption: a paragraph, and what is folded away."""

    name: str
    title: str
    packed: str
    size: tuple[float, float]
    caption: "Markup"
    more: "Markup"


def pictures(drawings: Sequence[Drawing]) -> tuple[Picture | None, list[Picture]]:
    """Return the headline, if there is one, and the other figures."""
    named = {drawing.name: picture(drawing) for drawing in drawings}
    headline = next((named.pop(name) for name in HEADLINES if name in named), None)
    return headline, list(named.values())


def picture(drawing: Drawing) -> Picture:
    """Pack a figure."""
    svg, (first, _, rest) = drawing.picture("svg"), drawing.caption.partition("\n\n")
    title = first.partition("**")[2].partition("**")[0].rstrip(".")
    found = SIZE.search(svg)
    width, height = map(float, found.groups()) if found else (1.0, 1.0)
    return Picture(
        name=drawing.name,
        title=title or drawing.name,
        packed=packed(svg),
        size=(round(width), round(height)),
        caption=caption_html(first),
        more=caption_html(rest),
    )
