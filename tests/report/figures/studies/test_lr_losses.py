"""The loss at every learning rate: each is on its arm's line, or a number if it is beyond the axis."""

from collections.abc import Callable, Mapping
from statistics import fmean

import pytest
from matplotlib.axes import Axes

from rosa_bench.config.files.preset import swept
from rosa_bench.records.record import RunRecord
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.studies import lr_losses, lr_sensitivity
from rosa_bench.report.figures.studies.lr_losses import CHOSEN, HIGHER, LOWER

MakeRecord = Callable[..., RunRecord]
Losses = Mapping[str, Mapping[str, tuple[float, ...]]]  # method -> learning rate -> losses by seed


@pytest.fixture
def swept_runs(make_referenced: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``swept_runs({"ft": {"1e-4": (1.5, 1.6)}})``: a run for each method, learning rate and seed."""

    def make(losses: Losses, *more: str) -> list[RunRecord]:
        return [
            make_referenced(loss, f"method={method}", f"lr={lr}", f"seed={seed}", *more)
            for method, by_lr in losses.items()
            for lr, some in by_lr.items()
            for seed, loss in enumerate(some)
        ]

    return make


def drawn(runs: list[RunRecord]) -> Drawing:
    drawing = lr_losses.draw(runs)
    assert drawing is not None
    return drawing


def lines(ax: Axes) -> dict[str, list[tuple[str, float, bool]]]:
    """The markers of each arm: shape, loss, and whether it is open."""
    names = [label.get_text() for label in ax.get_yticklabels()]
    found: dict[str, list[tuple[str, float, bool]]] = {name: [] for name in names}
    for one in (one for one in ax.lines if one.get_linestyle() == "None"):
        [(x, y)] = one.get_xydata().tolist()  # pyrefly: ignore[missing-attribute]
        found[names[round(y)]].append((str(one.get_marker()), x, one.get_markerfacecolor() == "white"))
    return found


def test_every_rate_has_a_marker_and_the_lowest_arm_comes_first(swept_runs: Callable[..., list[RunRecord]]) -> None:
    losses = {
        "ft": {"1e-4": (1.5, 1.6), "1e-3": (1.75, 1.85), "1e-5": (1.9,)},
        "lora": {"1e-3": (1.25, 1.35), "1e-4": (1.3, 1.38)},
        "ia3": {"1e-3": (1.0, 1.1)},  # one rate shows no sensitivity
    }
    [ax] = drawn(swept_runs(losses)).figure.axes
    assert lines(ax) == {
        "LoRA r=8   0.001": [(LOWER, pytest.approx(1.34), False), (CHOSEN, pytest.approx(1.3), False)],
        "FT   0.0001": [
            (LOWER, 1.9, True), (CHOSEN, pytest.approx(1.55), False), (HIGHER, pytest.approx(1.8), False)
        ],
    }  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["LoRA r=8   0.001", "FT   0.0001"]
    assert ax.get_xlabel() == "Loss (lower is better), on test"


def test_the_caption_says_what_the_names_of_arms_leave_out(make_referenced: MakeRecord) -> None:
    changed = {"method.init": ["balanced", "svd"]}
    asked = ("method=rosa", "method.init=balanced")
    drawing = drawn([make_referenced(1.5, *asked, f"lr={lr}", deviations=changed) for lr in ("1e-4", "1e-3")])
    [name] = lines(drawing.figure.axes[0])
    assert "init" not in name
    assert "In all arms of ROSA: init=balanced." in drawing.caption.replace("\\", "")


def test_the_rate_is_the_one_that_tables_choose_even_if_another_has_a_lower_loss(make_referenced: MakeRecord) -> None:
    runs = [make_referenced(1.5, "lr=1e-4", held_out=1.0), make_referenced(1.25, "lr=1e-3", held_out=2.0)]
    [ax] = drawn(runs).figure.axes
    [marks] = lines(ax).values()
    assert marks == [(CHOSEN, 1.5, False), (HIGHER, 1.25, False)]


def test_of_many_losses_those_far_above_are_numbers_beside_the_axis(
    swept_runs: Callable[..., list[RunRecord]],
) -> None:
    names = swept("methods_decoder", "method")[:9]
    losses = {name: {"1e-4": (1.3 + n / 100,), "1e-3": (1.25 + n / 100,)} for n, name in enumerate(names)}
    losses[names[0]] |= {"1e-2": (9.5,), "1e-1": (12.0,)}
    drawing = drawn(swept_runs(losses))
    [ax] = drawing.figure.axes
    assert [text.get_text() for text in ax.texts] == ["→ 9.500, 12.000"]
    marked = [x for marks in lines(ax).values() for _, x, _ in marks]
    assert sorted(marked) == sorted(fmean(some) for by_lr in losses.values() for some in by_lr.values() if some[0] < 9)
    assert ax.get_xlim()[1] < 2
    assert drawing.picture("svg")


def test_scores_and_losses_are_never_in_one_figure(
    swept_runs: Callable[..., list[RunRecord]], make_record: MakeRecord
) -> None:
    losses = swept_runs({"ft": {"1e-4": (1.5,), "1e-3": (1.75,)}})
    scores = [make_record(f"lr={lr}", dev=0.5) for lr in (1e-3, 1e-4)]
    other = lr_sensitivity.draw([*scores, *losses])
    assert other is not None and other.runs == {run.id for run in scores}
    assert drawn([*scores, *losses]).runs == {run.id for run in losses}
    assert lr_losses.draw(scores) is None
    assert lr_losses.draw(losses[:1]) is None
