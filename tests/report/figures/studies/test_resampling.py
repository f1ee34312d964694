from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.studies.resampling import draw

MakeRecord = Callable[..., RunRecord]
NEVER, EVERY = "ROSA (r=8, resample_every=0)", "ROSA (r=8)"


@pytest.fixture
def fitted(make_record: MakeRecord) -> MakeRecord:
    """``fitted([2.0, 1.0], "method=lora", spread=0.0)``: a run with these train losses, one per epoch."""

    def make(losses: Sequence[float], *overrides: str, spread: float | None = 0.9, **changes: Any) -> RunRecord:
        record = make_record("task=cola", *overrides, dev=0.5, **changes)
        scores = {record.scores.reported: 0.5, "loss": 9.0}
        record.scores.epochs = [EpochScores(train_loss=loss, scores=scores) for loss in losses]
        if spread is not None:
            record.last["spread"] = spread
        return record

    return make


def never(fitted: MakeRecord, losses: Sequence[float], *overrides: str, **changes: Any) -> RunRecord:
    return rosa(fitted, losses, *overrides, resample_every=[0, 2], **changes)


def rosa(fitted: MakeRecord, losses: Sequence[float], *overrides: str, spread: float = 0.9, **own: Any) -> RunRecord:
    deviations = {f"method.{key}": pair for key, pair in own.items()}
    return fitted(losses, "method=rosa", *overrides, deviations=deviations, spread=spread)


def drawn(records: list[RunRecord]) -> Drawing:
    drawing = draw(select(records))
    assert drawing is not None
    return drawing


def heights(ax: Axes) -> dict[str, list[float]]:
    lines: list[Line2D] = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_ydata(), float).tolist() for line in lines}


def test_each_epoch_is_compared_with_the_run_at_the_same_learning_rate_and_seed(fitted: MakeRecord) -> None:
    records = [
        never(fitted, [2.0, 1.0], "lr=1e-3", "seed=0"),
        never(fitted, [4.0, 1.0], "lr=1e-4", "seed=1"),
        fitted([2.0, 1.5], "method=rosa", "lr=1e-3", "seed=0"),
        fitted([3.0, 1.1], "method=rosa", "lr=1e-4", "seed=1"),
        fitted([9.0, 9.0], "method=rosa", "lr=1e-4", "seed=0"),
        fitted([1.0, 2.0], "method=lora", "lr=1e-3", "seed=0"),
        fitted([9.0, 9.0], "method=lora", "rank=2", "lr=1e-3", "seed=0"),
        rosa(fitted, [9.0, 9.0], "lr=1e-3", "seed=0", select=["top", "random"]),
        rosa(fitted, [4.0, 4.0], "lr=1e-3", "seed=0", resample_every=[1, 2]),
    ]
    drawing = drawn(records)
    [ax] = drawing.figure.axes
    assert heights(ax) == {
        "LoRA (r=8)": pytest.approx([-50, 100]),
        EVERY: pytest.approx([-12.5, 30]),
        "ROSA (r=8, resample_every=1)": pytest.approx([100, 300]),
        NEVER: [0, 0],
    }
    assert "ROSA (r=8) 2 (0.0001, 0.001)" in drawing.caption
    shade = np.asarray(ax.collections[1].get_paths()[0].vertices)
    assert {round(y) for x, y in shade if x == 2} == {10, 50}


def test_a_run_that_never_resamples_by_default_is_compared_with(fitted: MakeRecord) -> None:
    """Not LoRA: it has a period too, 0 by default."""
    every = {"method.resample_every": [2, 0]}
    records = [
        fitted([2.0, 1.0], "method=rosa", "protocol=fair"),
        fitted([2.0, 1.5], "method=rosa", "protocol=fair", "method.resample_every=2", deviations=every),
        fitted([1.0, 2.0], "method=lora", "protocol=fair", "lr=2e-3"),
    ]
    [ax] = drawn(records).figure.axes
    assert heights(ax) == {
        "LoRA (r=8)": pytest.approx([-50, 100]),
        "ROSA (r=8, resample_every=2)": pytest.approx([0, 50]),
        "ROSA (r=8)": [0, 0],
    }
    assert draw(select([records[0], records[2]])) is None


def test_runs_that_collapsed_have_no_pair(fitted: MakeRecord) -> None:
    records = [
        never(fitted, [1.0], "seed=0"), never(fitted, [1.0], "seed=1"), never(fitted, [1.0], "seed=2", spread=0.0),
        fitted([3.0], "method=rosa", "seed=0", spread=0.0), fitted([2.0], "method=rosa", "seed=1"),
        fitted([3.0], "method=rosa", "seed=2"),
    ]  # fmt: skip
    [ax] = drawn(records).figure.axes
    assert heights(ax)[EVERY] == [100]


def test_an_epoch_that_one_run_of_a_pair_lacks_is_a_gap(fitted: MakeRecord) -> None:
    both = [never(fitted, [1.0, 2.0]), fitted([2.0], "method=rosa")]
    [ax] = drawn(both).figure.axes
    assert heights(ax)[EVERY] == pytest.approx([100, float("nan")], nan_ok=True)
    others = [never(fitted, [1.0], "seed=1"), fitted([4.0], "method=rosa", "seed=1")]
    [ax] = drawn([*both, *others]).figure.axes
    assert heights(ax)[EVERY] == pytest.approx([200, float("nan")], nan_ok=True)


def test_a_zero_loss_is_not_drawn(fitted: MakeRecord) -> None:
    [ax] = drawn([never(fitted, [0.0, 1.0]), fitted([1.0, 2.0], "method=rosa")]).figure.axes
    assert heights(ax)[EVERY] == pytest.approx([float("nan"), 100], nan_ok=True)


def test_lora_with_another_initialisation_is_shown_too(fitted: MakeRecord) -> None:
    own = fitted([2.0], "method=lora", deviations={"method.init": ["kaiming", "normal"]})
    [ax] = drawn([never(fitted, [1.0], "lr=6e-5"), own]).figure.axes
    assert heights(ax)["LoRA (r=8, init=kaiming)"] == [100]


def test_there_is_no_figure_without_a_pair(fitted: MakeRecord, make_record: MakeRecord) -> None:
    one, other = never(fitted, [1.0], "seed=0"), fitted([1.0], "method=rosa", "seed=1")
    assert draw([]) is None
    assert draw(select([one])) is None
    assert draw(select([one, other])) is None
    assert draw(select([fitted([1.0], "method=rosa"), fitted([1.0], "method=lora")])) is None
    assert draw(select([make_record("method=rosa", deviations={"method.resample_every": [0, 2]}), other])) is None
    assert draw(select([one, fitted([1.0], "method=rosa", "seed=0")])) is not None


def test_the_same_records_give_the_same_bytes(fitted: MakeRecord, tmp_path: Path) -> None:
    records = [
        run
        for seed in range(3)
        for protocol in ("paper", "fair")
        for run in (
            never(fitted, [1.0, 0.5], f"seed={seed}", f"protocol={protocol}", "lr=1e-3"),
            rosa(fitted, [1.0, 0.4 + seed], f"seed={seed}", f"protocol={protocol}", "lr=1e-3", resample_every=[2, 0]),
        )
    ]
    written = [
        [path.read_bytes() for path in drawn(records[::order]).write(tmp_path / str(order))] for order in (1, -1)
    ]
    assert written[0] == written[1]
    assert len(drawn(records).figure.axes) == 2
