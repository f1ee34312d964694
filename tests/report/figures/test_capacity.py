"""The figures of capacity experiments show the numbers of the records, and nothing where there are none."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import t

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.select import select
from rosa_bench.report.figures import capacity, language, memory
from rosa_bench.report.figures.arms import arm_styles
from rosa_bench.report.figures.drawing import Drawing, styled
from rosa_bench.report.figures.memory import pareto_front
from rosa_bench.report.make_figures import draw_figures

MakeRecord = Callable[..., RunRecord]
BITS = 8 * math.log2(10)  # of one number


def drawn(found: Drawing | None) -> Drawing:
    assert found is not None
    return found


def lines(ax: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each named line."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.column_stack(line.get_data())]
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
    }


def near(*points: tuple[float, float]) -> list:
    return [pytest.approx(point) for point in points]


def whiskers(ax: Axes) -> list[list[tuple[float, float]]]:
    """Return the ends of every bar that is longer than a point, in order of drawing."""
    paths: Any = [collection.get_paths() for collection in ax.collections]
    ends = [[(float(x), float(y)) for x, y in path.vertices] for some in paths for path in some]
    return [pair for pair in ends if len(pair) == 2 and pair[0] != pair[1]]


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
    left, right = drawn(capacity.draw(select(runs))).figure.axes
    recall, stored = lines(left), lines(right)
    whole = 4096 * BITS
    assert recall["FT"] == near((whole / 4e6, 95), (whole / 1e6, 90.5))
    assert recall["LoRA r=1"] == near((whole / 4e4, 21.5), (whole / 1e4, 20.5))
    assert recall["LoRA r=2"] == near((whole / 8e4, 42.5), (whole / 2e4, 40.5))
    assert stored["LoRA r=2"] == near((whole / 8e4, 1024 / 2e4), (whole / 2e4, 4096 / 2e4))
    everything = np.array(stored["all of the data"])
    assert everything[:, 0] == pytest.approx(everything[:, 1])
    assert left.get_xscale() == right.get_xscale() == "log"
    half = 100 * t.ppf(0.975, 1) * math.sqrt(0.00005 / 2)
    x = whole / 4e6
    assert any(bar == [pytest.approx((x, 95 - half)), pytest.approx((x, 95 + half))] for bar in whiskers(left))


def test_each_arm_is_at_its_best_learning_rate_by_the_loss_on_what_it_learnt(make_memorised: MakeRecord) -> None:
    runs = [
        make_memorised(0.9, "method=lora", "lr=1e-2", loss=2.0),
        make_memorised(0.3, "method=lora", "lr=1e-3", loss=1.0),
        make_memorised(0.5, "method=lora", "lr=1e-4", loss=1.5),
    ]
    drawing = drawn(capacity.draw(select(runs)))
    assert lines(drawing.figure.axes[0])["LoRA r=8"][0][1] == pytest.approx(30)
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
    assert len(drawn(capacity.draw(select(runs))).figure.axes) == 4


def test_filled_markers_are_of_arms_that_resample(make_memorised: MakeRecord) -> None:
    never = {"method.resample_every": [0, 1.0]}
    runs = [
        make_memorised(0.1, "method=lora", "rank=1"),
        make_memorised(0.1, "method=rosa", "rank=1", "method.resample_every=0", deviations=never),
        make_memorised(0.1, "method=rosa", "rank=1"),
        make_memorised(0.1, "method=ft"),
    ]
    [ax, _] = drawn(capacity.draw(select(runs))).figure.axes
    faces = {line.get_label(): line.get_markerfacecolor() for line in ax.lines}
    assert {label: face for label, face in faces.items() if face == "white"}.keys() == {"LoRA r=1", "ROSA r=1, never"}


def test_no_two_arms_of_a_method_look_alike(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.1, "method=lora", f"rank={rank}") for rank in (1, 2, 4, 8)]
    runs += [
        make_memorised(0.1, "method=rosa", f"method.resample_every={every}", deviations={
            "method.resample_every": [every, 1.0]
        })
        for every in (0, 1, 2, 3, 4)
    ]  # fmt: skip
    cells = {variant: cell.runs[0] for group in select(runs) for (variant, _), cell in group.cells.items()}
    styles = arm_styles(cells).values()
    assert len({(style["color"], style["marker"]) for style in styles}) == len(runs) == len(cells)
    assert len({(style["marker"], style["linestyle"]) for style in styles}) == len(runs)


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
    found = lines(ax)
    assert found["LoRA r=8"] == [pytest.approx((1024, 50))]
    assert found["FT"] == [pytest.approx((3072, 70))]
    assert found["Pareto front"] == [(1024, 50), (3072, 70), (4096, 70)]
    assert drawing.runs == {runs[0].id, runs[2].id, runs[3].id}
    assert "shared by up to 3 processes in 1 of 3 runs" in drawing.caption
    assert memory.draw_texts(select(runs)) is None


def test_loss_is_shown_by_size_with_its_floor(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(1.5 + 0.1 * seed, "method=lora", f"rank={rank}", f"seed={seed}", trainable=1000 * rank)
        for rank in (1, 2)
        for seed in (0, 1)
    ]
    [ax] = drawn(language.draw(select(runs))).figure.axes
    found = lines(ax)
    assert found["LoRA r=1"] == [pytest.approx((1000, 1.55))]
    assert found["LoRA r=2"] == [pytest.approx((2000, 1.55))]
    assert {y for _, y in found[language.FLOOR]} == {1.25}
    [front, *_] = drawn(memory.draw_texts(select(runs))).figure.axes
    assert "nats per token" in front.get_ylabel()


def test_forgetting_is_shown_where_it_is_recorded(make_continued: MakeRecord) -> None:
    runs = [
        make_continued(1.5, "method=lora", forgotten=0.25, entropy=None),
        make_continued(1.4, "method=ft", forgotten=0.75, entropy=None),
        make_continued(1.6, "method=ia3", entropy=None),
    ]
    left, right = drawn(language.draw(select(runs))).figure.axes
    assert lines(right) == {"LoRA r=8": [pytest.approx((1.5, 0.25))], "FT": [pytest.approx((1.4, 0.75))]}
    assert lines(left).keys() == {"LoRA r=8", "FT", "(IA)³"}
    assert "restaurants" in right.get_ylabel()


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
def test_labels_do_not_overlap(make_memorised: MakeRecord, make_continued: MakeRecord) -> None:
    runs = [*arms(make_memorised), *arms(make_memorised, 1024)]
    runs += [make_continued(1.5, "method=lora", f"rank={rank}", forgotten=0.1) for rank in (1, 2, 4, 8)]
    for drawing in draw_figures(runs):
        figure: Any = drawing.figure
        with styled():
            FigureCanvasAgg(figure).draw()
        texts = [ax.xaxis.label for ax in figure.axes] + [ax.yaxis.label for ax in figure.axes] + figure.legends
        boxes = [text.get_window_extent() for text in texts]
        names = [getattr(text, "get_text", lambda: "legend")() for text in texts]
        overlaps = [
            (drawing.name, names[n], names[m])
            for n, one in enumerate(boxes)
            for m, other in enumerate(boxes[:n])
            if one.overlaps(other)
        ]
        assert overlaps == []
        assert all(figure.bbox.padded(2).containsx(box.x0) and figure.bbox.padded(2).containsx(box.x1) for box in boxes)
