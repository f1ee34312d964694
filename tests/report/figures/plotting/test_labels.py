"""Names beside points: never one over another, never outside, and close where there is room."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from rosa_bench.report.figures.plotting.labels import NEAR_IN, label_points, placed

SIZE = (3.0, 2.0)
SPOTS = st.lists(st.tuples(st.floats(0, SIZE[0]), st.floats(0, SIZE[1])), max_size=25)


@settings(max_examples=25)
@given(SPOTS)
def test_no_name_covers_another_or_leaves_the_axes(spots: list[tuple[float, float]]) -> None:
    found = placed({f"method {n}": spot for n, spot in enumerate(spots)}, SIZE)
    assert not any(one.overlaps(other) for one, other in combinations(found.values(), 2))
    assert all(
        one.left >= 0 and one.low >= 0 and one.right <= SIZE[0] and one.high <= SIZE[1] for one in found.values()
    )


def test_every_name_is_written_at_thirty_equal_points() -> None:
    names = {f"method {n}": (1.5, 1.0) for n in range(30)}
    assert placed(names, SIZE).keys() == names.keys()


def test_names_without_room_are_left_out() -> None:
    assert placed({"a long name": (0.1, 0.1)}, (0.2, 0.2)) == {}


def test_a_lonely_name_is_close_to_its_point_and_off_the_lines() -> None:
    level = ((0.0, 1.0), (3.0, 1.0))
    [place] = placed({"LoRA": (1.5, 1.0)}, SIZE, [level]).values()
    assert place.distance(place.point) < NEAR_IN
    assert place.line == []
    assert not place.covers(*level)


def test_a_name_is_not_beside_another_marker() -> None:
    """In a crowd, a name goes where no other marker is close, or stays closest to its own."""
    names = {
        "Houlsby adapters": (1.09, 0.98), "Lin et al.'s adapters": (1.01, 0.92), "Pfeiffer adapters": (1.18, 1.0),
        "LoRA": (1.09, 0.92),
    }  # fmt: skip
    for name, place in placed(names, SIZE).items():
        others = [place.distance(point) for other, point in names.items() if other != name]
        assert min(others) >= min(place.distance(place.point), NEAR_IN)


def test_a_name_away_from_its_point_gets_a_line_in_its_colour() -> None:
    figure = Figure(figsize=SIZE)
    ax = figure.add_axes((0, 0, 1, 1))
    names = {f"method {n}": (0.5, 0.5) for n in range(20)}
    label_points(ax, names, size=SIZE, colours=dict.fromkeys(names, "#123456"))
    assert {text.get_text() for text in ax.texts} == names.keys()
    assert len(ax.lines) > 5
    assert {line.get_color() for line in ax.lines} == {"#123456"}
    assert all(line.get_xdata()[0] == pytest.approx(0.5) for line in ax.lines)  # pyrefly: ignore[bad-index]
