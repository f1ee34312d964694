"""Figure 5: the curves are the recorded sums, from the runs that have them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rosa_bench.records.record import RunRecord
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.paper.figure5 import draw

RANKS = [1, 2, 3, 8]
FT, LORA, ROSA = ("method=ft",), ("method=lora", "rank=2"), ("method=rosa", "rank=2")
KINDS = ["attention.self.query", "attention.output.dense"]


@pytest.fixture
def measured(make_record: Callable[..., RunRecord]) -> Callable[..., RunRecord]:
    """``measured([[5, 2, 0], ...], "method=lora")``: a run whose updates have these singular values, by layer.

    kinds  kinds of weights in each layer; from one to the next the rank grows by one and the relative norm shrinks
    """

    def make(values: list[list[float]], *overrides: str, kinds: list[str] = KINDS, **changes: Any) -> RunRecord:
        weights = {}
        for number, some in enumerate(values):
            sums = np.cumsum(some).tolist()
            for place, kind in enumerate(kinds):
                recorded = [sums[rank - 1] for rank in RANKS if rank <= len(sums)]
                size = {"rank": int(np.count_nonzero(some)) + place, "norm": 2.0, "norm_before": 8.0 + 32 * place}
                weights[f"roberta.encoder.layer.{number}.{kind}"] = {**size, "sum": sums[-1], "sums": recorded}
        return make_record("task=cola", *overrides, spectrum={"ranks": RANKS, "weights": weights}, **changes)

    return make


@pytest.fixture
def runs(measured: Callable[..., RunRecord]) -> list[RunRecord]:
    return [
        measured([[1.0] * 8, [1.0] * 4 + [0.5] * 4], *FT),
        measured([[3, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]], *LORA, "seed=0"),
        measured([[2, 2, 0, 0, 0, 0, 0, 0], [9, 1, 0, 0, 0, 0, 0, 0]], *LORA, "seed=1"),
        measured([[4, 2, 2, 1, 1, 0, 0, 0], [5, 5, 5, 5, 0, 0, 0, 0]], *ROSA),
    ]


def drawn(records: list[RunRecord]) -> Drawing:
    drawing = draw(records)
    assert drawing is not None
    return drawing


def panels(drawing: Drawing) -> dict[str, Axes]:
    return {ax.get_title(): ax for ax in drawing.figure.axes if ax.get_visible()}


def colours_of(drawing: Drawing) -> dict[str, Any]:
    """The colour of each variant in the legend."""
    [legend] = drawing.figure.legends
    return {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}


def of_colour(ax: Axes, colour: object) -> list[Line2D]:
    """Return a variant's curve and its marker."""
    return [line for line in ax.lines if line.get_color() == colour and len(np.asarray(line.get_xdata()))]


def test_an_update_below_rounding_has_a_curve_and_no_marker(measured: Callable[..., RunRecord]) -> None:
    run = measured([[4, 2, 2, 1, 1, 0, 0, 0]], *ROSA)
    for weight in run.spectrum.weights.values():
        weight.rank = 0  # which an axis of logarithms does not have
    drawing = drawn([run])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib gives up a layout whose axes have no room
        figure = drawing.laid_out
    for ax in figure.axes:
        assert ax.get_position().width > 0.3
        assert len(of_colour(ax, colours_of(drawing)["ROSA (r=2)"])) == 1


def test_a_curve_is_the_share_of_the_sum_by_kind_of_layer(runs: list[RunRecord]) -> None:
    drawing = drawn(runs)
    assert list(panels(drawing)) == KINDS
    for ax in panels(drawing).values():
        colours = colours_of(drawing)
        assert list(colours) == ["FT", "LoRA (r=2)", "ROSA (r=2)"]
        curve, _ = of_colour(ax, colours["LoRA (r=2)"])
        np.testing.assert_array_equal(np.asarray(curve.get_xdata()), RANKS)
        # Two layers of two seeds: their first values are 3/4, 1/2, 1/2 and 9/10 of the sum.
        np.testing.assert_allclose(np.asarray(curve.get_ydata()), [(0.75 + 0.5 + 0.5 + 0.9) / 4, 1, 1, 1])
        curve, _ = of_colour(ax, colours["FT"])
        np.testing.assert_allclose(
            np.asarray(curve.get_ydata()), np.mean([[1 / 8, 2 / 8, 3 / 8, 1], [1 / 6, 2 / 6, 3 / 6, 1]], axis=0)
        )
        assert ax.get_xscale() == "log"
    colour = colours_of(drawing)["ROSA (r=2)"]
    markers = [of_colour(ax, colour)[1] for ax in panels(drawing).values()]
    assert [float(np.asarray(marker.get_xdata())[0]) for marker in markers] == [4.5, 5.5]  # ranks 5 and 4; 6 and 5


def test_ranks_and_norms_are_in_the_caption(runs: list[RunRecord]) -> None:
    caption = drawn(runs).caption
    assert "| (a) rank; relative norm | lr | attention.self.query | attention.output.dense |" in caption
    assert "| LoRA (r=2) | 6e-05 | 2; 0.25 | 3; 0.05 |" in caption
    assert "| ROSA (r=2) | 0.0006 | 4 to 5; 0.25 | 5 to 6; 0.05 |" in caption


def test_runs_without_a_spectrum_are_ignored(runs: list[RunRecord], make_record: Callable[..., RunRecord]) -> None:
    better = [make_record("task=cola", *LORA, "lr=1e-2", f"seed={seed}", dev=0.9) for seed in range(3)]
    assert drawn([*runs, *better]).caption == drawn(runs).caption
    assert draw(better) is None
    assert draw([]) is None


def test_a_weight_that_did_not_move_has_no_curve(measured: Callable[..., RunRecord]) -> None:
    still = [[0.0] * 8]
    assert draw([measured(still, *FT)]) is None
    drawing = drawn([measured([[1.0] * 8], *FT), measured(still, "method=bitfit")])
    assert "bitfit" not in drawing.caption.lower()


@pytest.mark.parametrize("count", [1, 4, 6])
def test_every_kind_of_layer_has_its_axes_and_every_setting_its_row(
    measured: Callable[..., RunRecord], count: int
) -> None:
    kinds = [f"block.{name}" for name in "abcdef"[:count]]
    records = [
        measured([[2.0, 1.0]], *FT, kinds=kinds),
        measured([[2.0, 1.0]], *FT, "protocol=fair", held_out=0.5),
    ]
    figure = drawn(records).figure
    assert sorted(ax.get_title() for ax in figure.axes if ax.get_visible()) == sorted([*kinds, *KINDS])
    titles = [part._suptitle.get_text() for part in figure.subfigs]  # pyrefly: ignore[missing-attribute]
    assert [title[:4] for title in titles] == ["(a) ", "(b) "]
    assert "protocol paper" in " ".join(titles) and "protocol fair" in " ".join(titles)


def test_the_same_records_give_the_same_bytes(runs: list[RunRecord], tmp_path: Path) -> None:
    written = [[path.read_bytes() for path in drawn(runs[::order]).write(tmp_path / str(order))] for order in (1, -1)]
    assert written[0] == written[1]


def test_nothing_is_cut_off_and_no_titles_overlap(runs: list[RunRecord]) -> None:
    figure = drawn(runs).figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for ax in figure.axes for text in (ax.title, ax.xaxis.label) if text.get_text()]
    boxes += [part._suptitle.get_window_extent() for part in figure.subfigs]  # pyrefly: ignore[missing-attribute]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
