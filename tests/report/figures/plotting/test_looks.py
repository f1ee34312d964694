"""Methods can be told apart, by people with colour blindness too, and every figure keeps to the same rules."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from rosa_bench.config.files.looks import looks
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import Deviation, Variant
from rosa_bench.report.figures.drawing import styled
from rosa_bench.report.figures.plotting.styles import styles_of
from rosa_bench.report.make_figures import draw_figures

# Linear RGB as it is, and as seen with deuteranopia and protanopia (Machado et al., IEEE TVCG 15, 2009).
SIGHTS = (
    np.eye(3),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
)
# Linear RGB to cone responses, and their cube roots to Oklab (Ottosson, 2020), whose distances are perceptual.
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
APART = 0.07  # in Oklab: black and white are 1 apart
PAPERS = ("ft", "lora", "rosa", "ia3", "bitfit", "head_only")  # lines of one figure
ALIKE = {"h": "o", "H": "o", "8": "o", "d": "D"}  # markers that cannot be told apart when small


def apart(one: Any, other: Any) -> float:
    """Return the distance of two colours to whoever sees the smallest."""

    def seen(colour: Any, sight: np.ndarray) -> np.ndarray:
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return TO_OKLAB @ np.cbrt(TO_CONES @ np.clip(sight @ linear, 0, 1))

    return min(float(np.linalg.norm(seen(one, sight) - seen(other, sight))) for sight in SIGHTS)


def test_two_methods_with_one_marker_have_colours_that_everyone_can_tell_apart() -> None:
    alike = [
        (one, other)
        for (one, a), (other, b) in combinations(looks().items(), 2)
        if ALIKE.get(a.marker, a.marker) == ALIKE.get(b.marker, b.marker) and apart(a.colour, b.colour) < APART
    ]
    assert alike == []


def test_the_papers_methods_have_colours_that_everyone_can_tell_apart() -> None:
    known = looks()
    assert min(apart(known[one].colour, known[other].colour) for one, other in combinations(PAPERS, 2)) >= APART
    assert apart("#000000", "#FFFFFF") == pytest.approx(1, abs=1e-3)


def test_every_method_has_a_look_and_a_place_of_its_own() -> None:
    known = looks().values()
    assert len({look.order for look in known}) == len(known)
    assert len({(look.colour, look.marker) for look in known}) == len(known)


def test_variants_of_a_method_share_its_marker_and_differ_in_shade() -> None:
    forms = [(), *((Deviation("method.resample_every", every, 0),) for every in (1, 2, 5))]
    variants = [Variant("rosa", rank, form, title="ROSA") for rank in (2, 8) for form in forms]
    styles = styles_of([*variants, Variant("ft", None, (), title="FT")])
    ours = [styles[variant] for variant in variants]
    assert {style["marker"] for style in ours} == {looks()["rosa"].marker}
    assert len({(style["color"], str(style["linestyle"])) for style in ours}) == len(ours)
    assert styles[variants[4]]["color"] == to_rgb(looks()["rosa"].colour)  # the highest rank without changes


@pytest.mark.slow
def test_every_text_is_on_the_page_and_no_title_names_a_device(
    every_kind: list[RunRecord], shown_texts: Callable[[Any], list[Text]]
) -> None:
    drawings = draw_figures(every_kind)
    assert len(drawings) >= 8
    for drawing in drawings:
        figure: Any = drawing.laid_out
        with styled():
            FigureCanvasAgg(figure).draw()
        page = figure.bbox.padded(2)
        boxes = {text.get_text(): Text.get_window_extent(text) for text in shown_texts(figure)}  # without arrows
        outside = [text for text, box in boxes.items() if not all(page.contains(*corner) for corner in box.corners())]
        assert (drawing.name, outside) == (drawing.name, [])
        titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]
        titles += [part._suptitle.get_text() for part in [figure, *figure.subfigs] if part._suptitle]
        assert not [title for title in titles if "cuda" in title or "bfloat16" in title]
