"""The figures of capacity experiments show the numbers of the records, and nothing where there are none."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from scipy.stats import t

from rosa_bench.config.files.looks import look_of
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.drawing import Drawing, faded, styled
from rosa_bench.report.figures.plotting.arms import MOST_TICKS, PALE, log_ticks, panels_where
from rosa_bench.report.figures.plotting.beside import spread
from rosa_bench.report.figures.plotting.families import families_of
from rosa_bench.report.figures.plotting.front import FRONT, pareto_front
from rosa_bench.report.figures.studies import capacity, language, memory
from rosa_bench.report.make_figures import draw_figures

MakeRecord = Callable[..., RunRecord]
BITS = 8 * math.log2(10)  # of one number


def drawn(found: Drawing | None) -> Drawing:
    assert found is not None
    return found


def places(ax: Axes) -> set[tuple[float, float]]:
    """Return the points with a marker, rounded."""
    return {
        (float(f"{x:.6g}"), float(f"{y:.6g}"))
        for line in ax.lines
        if line.get_marker() not in ("None", None)
        for x, y in np.column_stack(line.get_data())
    }


def data(line: Any) -> tuple[list[float], list[float]]:
    x, y = line.get_data()
    return list(map(float, x)), list(map(float, y))


def curve(ax: Axes, label: str) -> list[tuple[float, float]]:
    """Return the points of a named line."""
    [line] = [line for line in ax.lines if line.get_label() == label]
    return [(float(x), float(y)) for x, y in np.column_stack(line.get_data())]


def dots(ax: Axes) -> dict[str, float]:
    """Return what a dot plot shows of each arm, from top to bottom."""
    by_line = {round(y): x for x, y in places(ax)}
    names = [label.get_text() for label in ax.get_yticklabels()]
    return {name: by_line[line] for line, name in enumerate(names) if line in by_line}


def intervals(ax: Axes) -> list[tuple[float, float]]:
    """Return the ends of all intervals across a dot plot, from top to bottom."""
    ends = [(y[0], (min(x), max(x))) for x, y in map(data, ax.lines) if len(x) == 2]
    return [pair for _, pair in sorted(ends)]


def near(*points: tuple[float, float]) -> set[tuple[float, float]]:
    return {(float(f"{x:.6g}"), float(f"{y:.6g}")) for x, y in points}


def names_beside(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def arms(make: MakeRecord, pairs: int = 4096, scale: float = 1.0) -> list[RunRecord]:
    """Three arms with two seeds each."""
    return [
        make(scale * recall + 0.01 * seed, *overrides, f"seed={seed}", pairs=pairs, trainable=trainable, bits=pairs)
        for overrides, recall, trainable in (
            (("method=ft",), 0.9, 10**6),
            (("method=lora", "rank=1"), 0.2, 10**4),
            (("method=lora", "rank=2"), 0.4, 2 * 10**4),
        )
        for seed in (0, 1)
    ]


def test_a_point_is_at_its_bits_per_parameter_and_its_recall(make_memorised: MakeRecord) -> None:
    runs = [*arms(make_memorised), *arms(make_memorised, 1024, 1.05)]
    left, few, many = drawn(capacity.draw(select(runs))).figure.axes
    whole = 4096 * BITS
    assert places(left) == near(
        (whole / 4e6, 95), (whole / 1e6, 90.5),
        (whole / 4e4, 21.5), (whole / 1e4, 20.5),
        (whole / 8e4, 42.5), (whole / 2e4, 40.5),
    )  # fmt: skip
    assert left.get_xscale() == "log"
    assert dots(few) == pytest.approx({"FT": 95, "LoRA r=2": 42.5, "LoRA r=1": 21.5})
    assert dots(many) == pytest.approx({"FT": 90.5, "LoRA r=2": 40.5, "LoRA r=1": 20.5})
    half = 100 * t.ppf(0.975, 1) * math.sqrt(0.00005 / 2)
    assert intervals(many)[1] == pytest.approx((40.5 - half, 40.5 + half))


def test_what_is_stored_is_shown_where_most_arms_recall_nothing(make_memorised: MakeRecord) -> None:
    _, right = drawn(capacity.draw(select(arms(make_memorised)))).figure.axes
    assert right.get_xlabel() == "exact recall (%)"
    nothing = [make_memorised(0.0, "method=lora", f"rank={rank}", bits=500, trainable=1000 * rank) for rank in (1, 2)]
    left, right = drawn(
        capacity.draw(select([*nothing, make_memorised(1.0, "method=ft", trainable=10**6)]))
    ).figure.axes
    assert left.get_ylabel() == right.get_xlabel() == "stored, bits per trained parameter"
    assert dots(right) == pytest.approx({"LoRA r=1": 0.5, "LoRA r=2": 0.25, "FT": 4096 * BITS / 1e6})
    everything = np.array(curve(left, capacity.EVERYTHING))
    assert everything[:, 0] == pytest.approx(everything[:, 1])


def test_each_arm_is_at_its_best_learning_rate_by_the_loss_on_what_it_learnt(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(0.9, "method=lora", "lr=1e-2", loss=2.0),
        make_memorised(0.3, "method=lora", "lr=1e-3", loss=1.0),
        make_memorised(0.5, "method=lora", "lr=1e-4", loss=1.5),
    ]
    drawing = drawn(capacity.draw(select(runs)))
    assert dots(drawing.figure.axes[1]) == {"LoRA r=8": pytest.approx(30)}
    assert drawing.runs == {runs[1].id}
    assert "| 0.001 | 1 |" in drawing.caption


def test_the_table_beside_the_figure_has_its_numbers(make_memorised: MakeRecord) -> None:
    caption = drawn(capacity.draw(select(arms(make_memorised)))).caption
    half = 100 * t.ppf(0.975, 1) * math.sqrt(0.00005 / 2)
    line = f"| LoRA r=2 (20.0 k) | 4,096 | 5.44 | 40.5 \\[{40.5 - half:.1f}, {40.5 + half:.1f}\\] | 0.205 | 0.002 | 2 |"
    assert line in caption


def test_data_learnt_for_several_lengths_of_time_is_in_several_panels(make_memorised: MakeRecord) -> None:
    longer = {"epochs": [50, 25]}
    runs = [
        *arms(make_memorised), *arms(make_memorised, 1024),
        *(make_memorised(0.7, "method=lora", f"rank={rank}", "epochs=50", deviations=longer) for rank in (1, 2)),
    ]  # fmt: skip
    panels = capacity.capacity_panels(select(runs))
    assert [len(panel.runs) for panel in panels] == [12, 2]
    assert [sorted({round(bits / BITS) for arm in panel.arms.values() for bits in arm}) for panel in panels] == [
        [1024, 4096], [4096],
    ]  # fmt: skip
    assert len(drawn(capacity.draw(select(runs))).figure.axes) == 3 + 2


def many_arms(make: MakeRecord) -> list[RunRecord]:
    """30 arms with three seeds: FT, four ranks of LoRA, and ROSA with five periods in five forms."""
    runs = []
    for seed in range(3):
        runs.append(make(0.99 + 0.003 * seed, "method=ft", f"seed={seed}", trainable=10**6, memory=2**31))
        for rank in (1, 2, 4, 8):
            recall = 0.1 * rank + 0.1 * seed
            size = 10**4 * rank
            runs.append(
                make(recall, "method=lora", f"rank={rank}", f"seed={seed}", trainable=size, memory=2**30 + rank)
            )
        for form, init in enumerate(("svd", "balanced", "zero", "svd_add", "random")):
            for number, every in enumerate((0, 200, 100, 50, 25)):
                asked = {"method.resample_every": [every, 1.0], "method.resample_unit": ["steps", "epochs"]}
                asked |= {} if form == 0 else {"method.init": [init, "svd"]}
                recall = 0.15 + 0.1 * number + 0.02 * form + 0.05 * seed * (number - 1)
                runs.append(
                    make(
                        recall, "method=rosa", "rank=2", f"seed={seed}", *periods(every), deviations=asked,
                        trainable=2 * 10**4, memory=2**30 + 2**20 * (form + seed),
                    )
                )  # fmt: skip
    return runs


def periods(every: float) -> list[str]:
    return [f"method.resample_every={every}", "method.resample_unit=steps"]


def test_every_arm_is_in_the_dot_plot_once_and_the_best_first(make_memorised: MakeRecord) -> None:
    drawing = drawn(capacity.draw(select(many_arms(make_memorised))))
    left, right = drawing.figure.axes
    shown = dots(right)
    assert len(shown) == len(right.get_yticklabels()) == 30
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    table = [line.split(" (")[0].removeprefix("| ") for line in drawing.caption.splitlines() if " k) | " in line]
    assert {"FT", *table} == {*shown, "FT"}
    assert names_beside(right)[:-1] == ["1.00 M" if name == "FT" else size(name) for name in shown]
    assert {"r=1", "r=2", "r=4", "r=8"} == set(names_beside(left))


def test_a_book_that_was_learned_in_parts_is_not_beside_whole_ones(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.3, f"method={method}") for method in ("lora", "rosa")]
    for run in runs:
        run.data.facts["parts"] = 4
    assert capacity.draw(select(runs)) is None
    assert memory.draw_memorised(select(runs)) is None


def size(name: str) -> str:
    return f"{10 * int(name.split('r=')[1][0])}.0 k"


def test_the_legend_is_short_however_many_arms_there_are(make_memorised: MakeRecord) -> None:
    runs = many_arms(make_memorised)
    runs += [
        make_memorised(0.3, "method=rosa", "rank=2", *periods(every), deviations={
            "method.resample_every": [every, 1.0], "method.resample_unit": ["steps", "epochs"],
        })
        for every in range(1, 12)
    ]  # fmt: skip
    for draw in (capacity.draw, memory.draw_memorised):
        [legend] = drawn(draw(select(runs))).figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert 0 < len(texts) == len(set(texts)) <= 9
        assert not any("r=" in text for text in texts)


def test_intervals_end_where_values_end(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(recall, "method=lora", f"rank={rank}", f"seed={seed}", memory=2**30 + 2**28 * seed)
        for rank, recalls in ((1, (0.0, 0.4)), (2, (0.6, 1.0)), (4, (0.5, 0.51)))
        for seed, recall in enumerate(recalls)
    ]
    left, right = drawn(capacity.draw(select(runs))).figure.axes
    [front] = drawn(memory.draw_memorised(select(runs))).figure.axes
    high, middle, low = intervals(right)
    assert (high[1], low[0]) == (100, 0)
    assert 0 < middle[0] < middle[1] < 100
    for ax in (left, front):
        drawn_to = [y for line in ax.lines if line.get_label() == "_" for y in data(line)[1]]
        assert min(drawn_to) >= 0
        assert max(drawn_to) <= 100
    inside = [ax.get_xlim()[0] <= end <= ax.get_xlim()[1] for ax in (right,) for pair in intervals(ax) for end in pair]
    assert all(inside)


def test_filled_markers_are_of_arms_that_resample(make_memorised: MakeRecord) -> None:
    often = {"method.resample_every": [1, 0]}
    runs = [
        make_memorised(0.1, "method=lora", "rank=1"),
        make_memorised(0.2, "method=rosa", "rank=1"),
        make_memorised(0.3, "method=rosa", "rank=1", "method.resample_every=1", deviations=often),
        make_memorised(0.4, "method=ft"),
    ]
    for ax in drawn(capacity.draw(select(runs))).figure.axes:
        markers = [line for line in ax.lines if line.get_marker() not in ("None", None)]
        assert len(markers) == len(runs)
        assert sum(line.get_markerfacecolor() == "white" for line in markers) == 2


def test_periods_are_shaded_from_long_to_short_and_other_forms_are_grey(make_memorised: MakeRecord) -> None:
    runs = {
        variant: cell.runs[0]
        for group in select(many_arms(make_memorised))
        for (variant, _), cell in group.cells.items()
    }
    found = families_of(runs)
    assert list(found.shades) == [f"every {every} steps" for every in (200, 100, 50, 25)]
    assert len(set(found.shades.values())) == 4
    assert len(found.plain) == 1 + 4 + 5
    assert found.has_others
    [left, _] = drawn(capacity.draw(select(many_arms(make_memorised)))).figure.axes
    assert sum(line.get_color() == PALE for line in left.lines) == 20
    faces = {str(faded(look_of("rosa").colour, shade)) for shade in found.shades.values()}
    assert faces <= {str(line.get_markerfacecolor()) for line in left.lines}


def test_the_panels_with_most_runs_come_first(make_memorised: MakeRecord) -> None:
    few, many = (
        [make_memorised(0.5, f"seed={seed}", pairs=pairs) for seed in range(count)]
        for pairs, count in ((64, 1), (128, 3))
    )
    for groups in (select([*few, *many]), select([*many, *few])):
        assert [len(panel.runs) for panel in panels_where(groups, bool)] == [3, 1]
        assert [len(panel.runs) for panel in panels_where(groups, bool, 1)] == [3]


@given(st.floats(1e-5, 1e5), st.floats(2.56, 1e6), st.booleans())
def test_ticks_are_few_round_and_inside(low: float, factor: float, doubling: bool) -> None:
    ticks = log_ticks(low, low * factor, doubling=doubling)
    assert 1 <= len(ticks) <= MOST_TICKS
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= low * factor for tick in ticks)
    assert all(len(f"{tick:g}") <= 7 for tick in ticks)


@given(st.lists(st.floats(-0.5, 1.5), max_size=20), st.floats(0.01, 0.2))
def test_names_beside_axes_keep_their_order_and_distance(heights: list[float], gap: float) -> None:
    found = spread(heights, gap)
    assert len(found) == len(heights)
    least = min(gap, 1 / max(1, len(heights) - 1))
    ordered = sorted(found)
    assert all(above - below >= least - 1e-9 for below, above in pairwise(ordered))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in found)
    assert [found[n] for n in sorted(range(len(heights)), key=lambda n: heights[n])] == ordered
    apart = all(above - below >= gap for below, above in pairwise(sorted(heights)))
    if apart and all(0 <= height <= 1 for height in heights):
        assert found == pytest.approx(heights)


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8)


@given(POINTS, st.booleans())
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]], lower: bool) -> None:
    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        better = one[1] <= other[1] if lower else one[1] >= other[1]
        return one[0] <= other[0] and better and one != other

    expected = {point for point in points if not any(beats(other, point) for other in points)}
    found = pareto_front([(float(x), float(y)) for x, y in points], lower_is_better=lower)
    assert found == sorted(found)
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_memory_is_compared_on_one_kind_of_device(make_memorised: MakeRecord) -> None:
    other = {"device": {"type": "cuda", "name": "another card", "precision": "bfloat16"}}
    runs = [
        make_memorised(0.5, "method=lora", "seed=0", memory=2**30),
        make_memorised(0.5, "method=lora", "seed=1", memory=2**31, **other),
        make_memorised(0.7, "method=ft", "seed=0", memory=3 * 2**30),
        make_memorised(0.4, "method=ia3", "seed=0", memory=2**32),
    ]
    runs[0].device.shared_by = 3
    drawing = drawn(memory.draw_memorised(select(runs)))
    [ax] = drawing.figure.axes
    assert places(ax) == {(1024, 50), (3072, 70), (4096, 40)}
    assert curve(ax, FRONT) == [(1024, 50), (3072, 70), (4096, 70)]
    assert names_beside(ax) == ["LoRA r=8", "FT"]
    assert drawing.runs == {runs[0].id, runs[2].id, runs[3].id}
    assert "shared by up to 3 processes in 1 of 3 runs" in drawing.caption
    assert memory.draw_texts(select(runs)) is None


def test_memory_has_no_interval_and_its_range_is_in_the_table(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(0.5, "method=lora", "rank=1", f"seed={seed}", memory=memory)
        for seed, memory in enumerate((2**30, 2**30, 3 * 2**30))
    ]
    drawing = drawn(memory.draw_memorised(select(runs)))
    [ax] = drawing.figure.axes
    mean = 5 * 1024 / 3
    assert {x for line in ax.lines for x in data(line)[0]} == {mean}
    assert "| 1,707 (1,024 to 3,072) |" in drawing.caption


def test_only_arms_on_the_front_are_named_and_coloured(make_memorised: MakeRecord) -> None:
    drawing = drawn(memory.draw_memorised(select(many_arms(make_memorised))))
    [ax] = drawing.figure.axes
    named = names_beside(ax)
    on_front = [line.split(" | ")[1] for line in drawing.caption.splitlines() if " | yes | " in line]
    assert sorted(named) == sorted(on_front)
    assert 1 < len(named) < 30
    markers = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    assert len(markers) == 30
    assert sum(line.get_color() != PALE for line in markers) == len(named)


def test_loss_is_shown_by_size_with_its_floor(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(1.5 + 0.1 * seed, "method=lora", f"rank={rank}", f"seed={seed}", trainable=1000 * rank)
        for rank in (1, 2)
        for seed in (0, 1)
    ]
    left, right = drawn(language.draw(select(runs))).figure.axes
    assert places(left) == {(1000, 1.55), (2000, 1.55)}
    assert dots(right) == {"LoRA r=1": 1.55, "LoRA r=2": 1.55}
    assert {y for _, y in curve(left, language.FLOOR)} == {1.25}
    [front, *_] = drawn(memory.draw_texts(select(runs))).figure.axes
    assert "nats per token" in front.get_ylabel()


def test_names_beside_losses_are_at_the_heights_of_their_points(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(2.4, "method=lora", memory=2**30),
        make_continued(2.2, "method=rosa", memory=2**31),
        make_continued(2.0, "method=ft", memory=2**32),
    ]
    [ax] = drawn(memory.draw_texts(select(runs))).figure.axes
    assert len(ax.texts) == 3
    for text in ax.texts:
        assert isinstance(text, Annotation)
        point = ax.transAxes.inverted().transform(ax.transData.transform(text.xy))
        assert float(text.xyann[1]) == pytest.approx(float(point[1]), abs=0.01)


def test_forgetting_is_shown_where_it_is_recorded(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(1.5, "method=lora", forgotten=0.25, entropy=None),
        make_continued(1.4, "method=ft", forgotten=0.75, entropy=None),
        make_continued(1.6, "method=ia3", entropy=None),
    ]
    left, middle, right = drawn(language.draw(select(runs))).figure.axes
    assert len(places(left)) == 3
    assert dots(middle) == {"FT": 1.4, "LoRA r=8": 1.5, "(IA)³": 1.6}
    assert places(right) == {(0.75, 0), (0.25, 1)}  # on the lines of FT and of LoRA
    assert "restaurants" in right.get_xlabel()


def test_other_runs_have_none_of_these_figures(every_kind: list[RunRecord], make_record: MakeRecord) -> None:
    others = [run for run in every_kind if run.setting("task.name") not in {"phonebook", "new_language"}]
    for draw in (capacity.draw, language.draw, memory.draw_memorised, memory.draw_texts):
        assert draw([]) is None
        assert draw(select(others)) is None
        assert draw(select([make_record("task=phonebook", status="failed")])) is None


def test_memorised_rows_and_texts_are_in_none_of_the_other_figures(
    make_memorised: MakeRecord, make_continued: MakeRecord
) -> None:
    runs = [make_memorised(0.5, "method=lora", f"lr={lr}") for lr in ("1e-3", "1e-4")]
    runs.append(make_continued(1.5, "method=lora"))
    assert {drawing.name for drawing in draw_figures(runs)} == {"capacity", "language", "recall_memory", "loss_memory"}


@pytest.mark.slow
def test_no_text_overlaps_another_or_leaves_the_figure(
    make_memorised: MakeRecord, make_continued: MakeRecord, shown_texts: Callable[[Any], list[Text]]
) -> None:
    continued = [
        make_continued(1.5 + 0.1 * seed / rank, "method=lora", f"rank={rank}", f"seed={seed}", forgotten=0.1 * seed,
                       trainable=1000 * rank, memory=2**30 + rank)
        for rank in (1, 2, 4, 8, 16, 32)
        for seed in (0, 1)
    ]  # fmt: skip
    few = [*arms(make_memorised), *arms(make_memorised, 1024)]
    for runs in (few, many_arms(make_memorised), continued, few[:1], continued[:1]):
        for drawing in draw_figures(runs):
            figure: Any = drawing.laid_out
            with styled():
                FigureCanvasAgg(figure).draw()
            boxes = [(text.get_text(), Text.get_window_extent(text)) for text in shown_texts(figure)]  # without arrows
            assert len(boxes) > 5
            assert [
                (drawing.name, name, other)
                for n, (name, box) in enumerate(boxes)
                for other, place in boxes[:n]
                if box.padded(-1).overlaps(place.padded(-1))
            ] == []
            whole = figure.bbox.padded(2)
            outside = [name for name, box in boxes if not all(whole.contains(*corner) for corner in box.corners())]
            assert (drawing.name, outside) == (drawing.name, [])
