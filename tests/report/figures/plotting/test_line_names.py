"""Few lines have their names at their ends; many have a legend. Long titles stay on the page."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from rosa_bench.records.parts.mappings import PeakBytes
from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.drawing import WIDTH_IN, styled
from rosa_bench.report.figures.paper import figure3, figure6
from rosa_bench.report.figures.plotting.curves import LEGEND_LINE, LEGEND_WIDTH
from rosa_bench.report.figures.plotting.line_names import LONGEST, MOST, legend_columns, name_lines

ShownTexts = Callable[[Any], list[Text]]


def names(ax: Any) -> dict[str, float]:
    """The names beside axes, with their heights as shares of the axes'."""
    return {one.get_text(): one.xyann[1] for one in ax.texts if isinstance(one, Annotation)}


def two_axes(*counts: int) -> list[Any]:
    axes = Figure().subplots(1, 2).tolist()
    for ax, count in zip(axes, counts, strict=True):
        for number in range(count):
            ax.plot([1, 2, 3], [0, 1, number], label=f"line {number}")
    return axes


def test_few_lines_are_named_once_in_the_order_of_their_ends() -> None:
    left, right = two_axes(MOST, MOST)
    assert name_lines([left, right])
    assert names(left) == {}
    heights = names(right)
    assert list(heights) == [f"line {number}" for number in range(MOST)]
    assert sorted(heights, key=lambda name: heights[name]) == list(heights)


def test_axes_with_a_line_of_their_own_are_named_too() -> None:
    left, right = two_axes(3, 2)
    assert name_lines([left, right])
    assert (list(names(left)), list(names(right))) == (["line 0", "line 1", "line 2"], ["line 0", "line 1"])


def test_many_lines_are_left_to_a_legend() -> None:
    axes = two_axes(MOST, MOST + 1)
    assert not name_lines(axes)
    assert [names(ax) for ax in axes] == [{}, {}]


def test_long_names_are_left_to_a_legend() -> None:
    axes = two_axes(1, 1)
    axes[0].lines[0].set_label("x" * (LONGEST + 1))
    assert not name_lines(axes)
    assert [names(ax) for ax in axes] == [{}, {}]


def test_a_name_is_at_the_last_known_value_within_the_limits() -> None:
    left, right = two_axes(1, 0)
    left.lines[0].set_ydata([2, 0.5, np.nan])
    left.plot([1, 2, 3], [1, 1e-3, 1e-9], label="below")
    left.axhline(8, label="across")
    left.set_yscale("log")
    left.set_ylim(1e-2, 1e2)
    assert name_lines([left, right])
    expected = {"line 0": np.log10(50) / 4, "below": 0, "across": np.log10(800) / 4}
    assert names(left) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lengths", "columns"), [((2, 10, 10, 28), 4), ((30, 30, 30, 30), 3), ((50, 50, 50), 1), ((2,) * 9, 9)]
)
def test_a_legend_has_the_most_columns_that_fit(lengths: tuple[int, ...], columns: int) -> None:
    assert legend_columns(["x" * length for length in lengths], width=110, line=6) == columns


@pytest.mark.parametrize("figure", [figure3, figure6])
def test_long_titles_and_names_stay_on_the_page(
    make_record: Callable[..., RunRecord], shown_texts: ShownTexts, figure: Any
) -> None:
    records = []
    for method in ("lora", "rosa"):
        own = ["method.resample_every=2"] if method == "rosa" else []
        deviations = {"method.resample_every": [2, 1]} if method == "rosa" else {}
        record = make_record(
            "task=grammar", "task.phenomena=[pronoun_case]", "protocol=fair", "batch_size=16", "epochs=2",
            "limit_train=800", f"method={method}", *own, deviations=deviations,
        )  # fmt: skip
        reported = record.scores.reported
        record.scores.epochs = [EpochScores(train_loss=1.0, scores={reported: 0.5, "loss": 1.0}, time_s=1.0)] * 2
        record.memory_bytes = PeakBytes({"train": 2**30})
        records.append(record)
    drawing = figure.draw(select(records))
    page: Any = drawing.laid_out
    with styled():
        FigureCanvasAgg(page).draw()
    around = page.bbox.padded(2)
    outside = [text.get_text() for text in shown_texts(page) if not _is_inside(text, around)]
    assert outside == []


def _is_inside(text: Text, page: Any) -> bool:
    return all(page.contains(*corner) for corner in Text.get_window_extent(text).corners())


@pytest.mark.parametrize(
    "labels",
    [("FT", "LoRA (r=8)", "ROSA (r=8)", "ROSA (r=8, resample_every=2)", "(IA)³", "BitFit", "Head only"),
     ("FT", *(f"LoRA (r={rank})" for rank in (1, 2, 4, 8)), *(f"ROSA (r={rank})" for rank in (1, 2, 4, 8)))],
)  # fmt: skip
def test_a_legend_stays_on_the_page(labels: tuple[str, ...]) -> None:
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 2), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        lines = figure.subplots().plot([0, 1], np.zeros((2, len(labels))), marker="o")
        columns = legend_columns(labels, width=LEGEND_WIDTH, line=LEGEND_LINE)
        legend = figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        canvas.draw()
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
