import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench.report.page.plot import BOTTOM, LEFT, MARKED, POINTS, RIGHT, TOP, Plot, plot

NAN, INF = math.nan, math.inf


def placed(values: list[float], selected: int | None = None) -> Plot:
    found = plot("loss", values, selected=selected)
    assert found is not None
    return found


@given(st.lists(st.floats(-1e6, 1e6) | st.floats(1e-12, 1e6) | st.sampled_from([NAN, INF]), min_size=1, max_size=400))
def test_everything_drawn_is_inside_the_axes(values: list[float]) -> None:
    found = plot("loss", values, selected=1)
    if found is None:
        assert not any(map(math.isfinite, values))
        return
    points = [point for line in found.lines for point in line] + [(x, y) for x, y, _ in found.marks]
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)
    assert all(LEFT <= x <= RIGHT for x, _ in found.x_ticks)
    assert (found.y_ticks[0][0], found.y_ticks[-1][0]) == (BOTTOM, TOP)
    assert sum(map(len, found.lines)) <= POINTS + 2


@pytest.mark.parametrize("values", [[3.0, 2.0, 2.5, 0.1], [3.0, 1e-6, 2.5, 1e-3], [-3.0, 20.0, 1.0]])
def test_ticks_and_points_share_one_scale(values: list[float]) -> None:
    """A value between two ticks is drawn between them, and a larger one higher; y points down on the page."""
    found = placed(values)
    [line] = found.lines
    heights = [*((float(label), y) for y, label in found.y_ticks), *zip(values, (y for _, y in line), strict=True)]
    assert [y for _, y in sorted(heights, key=lambda pair: pair[0])] == sorted((y for _, y in heights), reverse=True)
    assert [x for x, _ in line] == sorted(x for x, _ in line)


def test_a_curve_over_many_magnitudes_is_drawn_logarithmically() -> None:
    [line] = placed([1.0, 1e-2, 1e-4, 1e-6]).lines
    steps = [below - above for (_, above), (_, below) in pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)  # rounded to tenths


@pytest.mark.parametrize(
    ("values", "pieces"),
    [
        ([1.0, 2.0, NAN, 3.0], [2, 1]),
        ([NAN, 1.0, INF], [1]),
        ([1.0, -INF, 2.0, 3.0], [1, 2]),
        ([1.0], [1]),
    ],
)
def test_a_curve_is_broken_where_it_is_not_finite(values: list[float], pieces: list[int]) -> None:
    found = placed(values)
    assert [len(line) for line in found.lines] == pieces
    assert [words for *_, words in found.marks] == [
        f"epoch {epoch}: {value:g}" for epoch, value in enumerate(values, start=1) if math.isfinite(value)
    ]


def test_a_long_curve_keeps_its_ends_and_its_selected_epoch() -> None:
    values = [float(epoch) for epoch in range(1, 10_001)]
    found = placed(values, selected=4321)
    [line] = found.lines
    assert (line[0], line[-1][0]) == ((LEFT, line[0][1]), RIGHT)
    assert [words for *_, words in found.marks] == ["epoch 4321: 4321"]
    assert found.marks[0][:2] in line
    assert len(line) <= POINTS + 2


@pytest.mark.parametrize("count", [1, 2, MARKED])
def test_a_short_curve_has_one_mark_per_epoch_and_integer_ticks(count: int) -> None:
    found = placed([0.5] * count)
    assert len(found.marks) == count
    assert found.x_ticks
    assert {int(epoch): x for x, epoch in found.x_ticks}.items() <= {
        epoch: x for epoch, (x, _, _) in enumerate(found.marks, start=1)
    }.items()


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_a_constant_curve_is_drawn_level(value: float) -> None:
    for values in ([value, value], [value, value * (1 + 1e-9)]):
        found = placed(values)
        assert len({y for line in found.lines for _, y in line}) == 1
        assert len({label for _, label in found.y_ticks}) == len(found.y_ticks) > 2


@pytest.mark.parametrize("values", [[], [NAN], [INF, -INF]])
def test_no_finite_value_gives_no_plot(values: list[float]) -> None:
    assert plot("loss", values, selected=None) is None
