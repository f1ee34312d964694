"""The figure and the table of methods show the numbers of the records."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rosa_bench.config.files.preset import swept
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.agreement import best_of_methods
from rosa_bench.report.cells.arms import Estimate
from rosa_bench.report.cells.differences import FEW_SEEDS_NOTE
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.figures.drawing import Drawing, styled
from rosa_bench.report.figures.plotting.front import FRONT
from rosa_bench.report.figures.studies import methods, methods_list
from rosa_bench.report.figures.studies.methods_list import MANY, fence_of, inside_fence
from rosa_bench.report.make_figures import draw_figures
from rosa_bench.report.make_tables import write_table
from rosa_bench.report.published import load_published
from rosa_bench.report.tables import methods as table

MIB = 2**20
# method -> mean score over tasks, memory in MiB, trained parameters
ARMS = {
    "ft": (0.70, 500, 20_000_000), "lora": (0.68, 300, 300_000), "rosa": (0.69, 300, 300_000),
    "ia3": (0.5, 280, 20_000), "head_only": (0.3, 100, 10_000), "bitfit": (0.45, 290, 30_000),
    "dora": (0.66, 400, 310_000),
}  # fmt: skip


@pytest.fixture
def runs(make_record: Callable[..., RunRecord]) -> list[RunRecord]:
    """Two tasks and three seeds of each arm. One run of DoRA has collapsed, and BitFit has one seed."""
    found = []
    for method, (score, memory, trained) in ARMS.items():
        for task, shift in (("cola", -0.1), ("rte", 0.1)):
            for seed in (0, 1, 2)[: 1 if method == "bitfit" else 3]:
                dev = score + shift + 0.01 * (seed - 1) * (method != "bitfit")
                run = make_record(
                    f"task={task}", f"method={method}", f"seed={seed}", "protocol=fair", dev=dev, held_out=dev,
                    trainable=trained, memory_bytes={"train": memory * MIB}, time_s={"train": memory, "total": 1000.0},
                    device={"type": "cuda", "name": "NVIDIA H200", "precision": "bfloat16", "shared_by": 1},
                )  # fmt: skip
                run.parameters.saved_bytes = 4 * trained
                run.last["spread"] = 0.0 if (method, task, seed) == ("dora", "rte", 2) else 1.0
                found.append(run)
    return found


@pytest.fixture
def drawing(runs: list[RunRecord]) -> Drawing:
    found = methods.draw(select(runs))
    assert found is not None
    return found


def markers(ax: Axes) -> set[tuple[float, float]]:
    lines: Any = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    return {(round(float(line.get_xdata()[0])), round(float(line.get_ydata()[0]), 4)) for line in lines}


def test_every_method_is_a_point_on_both_plots(drawing: Drawing) -> None:
    left, right, _ = drawing.figure.axes
    assert markers(left) == {(memory, 100 * score) for score, memory, _ in ARMS.values()}
    assert markers(right) == {(trained, 100 * score) for score, _, trained in ARMS.values()}
    assert left.get_ylim() == right.get_ylim()


def test_the_front_leaves_out_what_another_method_beats(drawing: Drawing) -> None:
    left, *_ = drawing.figure.axes
    [line] = [line for line in left.lines if line.get_label() == FRONT]
    steps = [(float(x), round(float(y), 4)) for x, y in np.column_stack(line.get_data())]
    assert steps[:-1] == [(100, 30), (280, 50), (300, 69), (500, 70)]


def test_every_method_is_named_with_what_a_reader_must_know(drawing: Drawing) -> None:
    *plots, listed = drawing.figure.axes
    names = [label.get_text() for label in listed.get_yticklabels()]
    assert set(names) == {
        "FT", "LoRA", "ROSA", "(IA)³", "Head only", "BitFit (1 seed)", "DoRA (1 of 6 collapsed)"
    }  # fmt: skip
    for ax in plots:
        assert {text.get_text() for text in ax.texts} == {name.partition(" (1")[0] for name in names}


def test_no_name_covers_another(drawing: Drawing) -> None:
    with styled():
        FigureCanvasAgg(drawing.figure).draw()
    for ax in drawing.figure.axes:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_the_longest_name_is_inside_the_figure(runs: list[RunRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "NAMES_IN", 0.5)
    found = methods.draw(select(runs))
    assert found is not None
    with styled():
        FigureCanvasAgg(found.figure).draw()
    *_, listed = found.figure.axes
    assert min(label.get_window_extent().x0 for label in listed.get_yticklabels()) >= 0


def test_the_caption_says_what_was_run(drawing: Drawing) -> None:
    assert "CoLA (matthews correlation; 8,451 train rows), RTE (accuracy; 2,390 train rows)" in drawing.caption
    assert "7 methods; 38 of 38 runs; seeds per task: 1 to 3." in drawing.caption
    assert "memory from NVIDIA H200" in drawing.caption
    assert "Rank 8 where a method has one." in drawing.caption


def test_the_csv_beside_the_picture_has_its_points(drawing: Drawing, tmp_path: Path) -> None:
    paths = drawing.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text(encoding="utf-8").splitlines()))
    assert tmp_path / "methods.csv" in paths
    assert len(rows) == 2 * len(ARMS)
    points = {(row["method"], row["cost"]): (float(row["x"]), float(row["score_x100"])) for row in rows}
    assert points["ft", "memory"] == (500, 70)
    assert points["ia3", "parameters"] == (20_000, 50)


def test_the_figure_is_among_those_drawn(runs: list[RunRecord]) -> None:
    assert "methods" in {drawing.name for drawing in draw_figures(runs)}


def test_nothing_is_drawn_without_memory(runs: list[RunRecord]) -> None:
    for run in runs:
        run.memory_bytes.clear()
    assert methods.draw(select(runs)) is None


def test_nothing_is_drawn_of_the_memory_of_runs_that_trained_in_one_pass(runs: list[RunRecord]) -> None:
    for run in runs:
        run.packed = 3
    assert methods.draw(select(runs)) is None


def test_a_plot_is_empty_if_the_only_method_with_memory_is_far_below_all_others(
    runs: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods_list, "MANY", len(ARMS))
    for run in runs:
        if run.settings.method.name in ("ia3", "bitfit"):
            run.selected[run.scores.reported] = 0.67
        if run.settings.method.name != "head_only":
            run.memory_bytes.clear()
    drawing = methods.draw(select(runs))
    assert drawing is not None
    left, right, listed = drawing.figure.axes
    assert (markers(left), left.get_xticks().size, len(markers(right))) == (set(), 0, len(ARMS) - 1)
    assert [text.get_text() for text in listed.texts] == ["← 30.0"]


def test_the_table_has_the_costs_beside_the_score(runs: list[RunRecord], tmp_path: Path) -> None:
    built = table.build(select(runs))
    [section] = built.sections
    texts = {line.label: [entry.mean for entry in line.entries] for line in section.lines}
    assert list(texts)[:3] == ["FT", "ROSA", "LoRA"]
    _, less_lora, *costs = texts["FT"]
    assert less_lora == "+2.0 [+2.0, +2.0]"
    assert costs == ["20.0 M", "500", "1.67", "76.29", "0 of 6", "3", "47.16"]
    assert texts["LoRA"][1] is None
    assert texts["DoRA"][6] == "1 of 6"
    assert texts["BitFit"][0] == "45.0"
    assert section.header["Order of methods, ours and PEFT's"].startswith("Kendall's by score tau")
    assert {path.suffix for path in write_table(built, tmp_path, "38 runs")} == {".md", ".tex", ".csv"}
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["method"]: row["peak_memory_bytes"] for row in rows}["ia3"] == str(280 * MIB)


@pytest.mark.parametrize(("seeds", "noted"), [(3, True), (5, False)])
def test_a_star_over_tasks_with_few_seeds_has_a_note(
    make_record: Callable[..., RunRecord], seeds: int, noted: bool
) -> None:
    scores = {"ft": 0.7, "lora": 0.6, "ia3": 0.5, "bitfit": 0.55}
    found = [
        make_record(f"task={task}", f"method={method}", f"seed={seed}", "protocol=fair", dev=dev, held_out=dev)
        for method, score in scores.items()
        for task in ("cola", "rte")
        for seed in range(seeds)
        for dev in [score + 0.001 * (seed % 2) * (method != "lora")]
    ]
    [section] = table.build(select(found)).sections
    [ft] = [line.entries[1].mean for line in section.lines if line.label == "FT"]
    assert str(ft).endswith("*")
    assert (FEW_SEEDS_NOTE in section.notes) is noted


def test_a_method_that_trains_nothing_has_no_place_among_trained_parameters(runs: list[RunRecord]) -> None:
    for run in runs:
        if run.settings.method.name == "ia3":
            run.parameters.trainable = 0
    drawing = methods.draw(select(runs))
    assert drawing is not None
    left, right, _ = drawing.figure.axes
    assert (280, 50) in markers(left)
    assert len(markers(right)) == len(markers(left)) - 1
    assert "Trains nothing, so only on the left: (IA)³." in drawing.caption


def test_an_interval_wider_than_the_plot_is_not_drawn(runs: list[RunRecord]) -> None:
    for run in runs:
        if run.settings.method.name == "ft":
            run.selected["matthews_correlation" if run.settings.task.name == "cola" else "accuracy"] = [0.0, 0.9, 1.2][
                run.settings.seed
            ]
    drawing = methods.draw(select(runs))
    assert drawing is not None
    bars = [line for line in drawing.figure.axes[0].lines if len(set(map(float, line.get_xdata()))) == 1]  # pyrefly: ignore[bad-argument-type]
    assert 500 not in {float(line.get_xdata()[0]) for line in bars if len(line.get_xdata()) == 2}  # pyrefly: ignore[bad-argument-type, bad-index]


LOSSES = {"ft": 1.0, "lora": 1.2, "rosa": 1.1, "ia3": 1.5, "bitfit": 1.3, "dora": 1.25}


@pytest.fixture
def scored_by_loss(make_referenced: Callable[..., RunRecord]) -> list[RunRecord]:
    """Three seeds of each method on E2E, with memory and parameters as in `ARMS`."""
    return [
        make_referenced(
            loss + shift, f"method={method}", f"seed={seed}", memory=ARMS[method][1] * MIB, trainable=ARMS[method][2]
        )
        for method, loss in LOSSES.items()
        for seed, shift in enumerate((-0.01, 0.0, 0.01))
    ]


def test_by_a_loss_down_and_left_is_better(scored_by_loss: list[RunRecord], tmp_path: Path) -> None:
    drawing = methods.draw(select(scored_by_loss))
    assert drawing is not None
    left, _, listed = drawing.figure.axes
    points = {(ARMS[method][1], loss) for method, loss in LOSSES.items()}
    assert markers(left) == points
    best = [point for point in points if not any(x <= point[0] and y < point[1] for x, y in points)]
    [line] = [line for line in left.lines if line.get_label() == FRONT]
    assert [(float(x), round(float(y), 4)) for x, y in np.column_stack(line.get_data())][:-1] == sorted(best)
    assert left.get_ylabel() == listed.get_xlabel() == "Loss (lower is better), on test"
    assert [label.get_text() for label in listed.get_yticklabels()][:2] == ["FT", "ROSA"]
    assert "Down and left is better" in drawing.caption
    assert r"1.500 \[1.475, 1.525\]" in drawing.caption
    drawing.write(tmp_path, ["svg"])
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["method"]: float(row["score"]) for row in rows} == pytest.approx(LOSSES)
    assert not any("x100" in key for key in rows[0])


def test_the_table_by_a_loss_has_the_lowest_first(scored_by_loss: list[RunRecord], tmp_path: Path) -> None:
    built = table.build(select(scored_by_loss))
    [section] = built.sections
    assert [line.label for line in section.lines] == ["FT", "ROSA", "LoRA", "DoRA", "BitFit", "(IA)³"]
    assert section.columns[0].title == "Loss"
    texts = {line.label: [entry.mean for entry in line.entries] for line in section.lines}
    assert texts["FT"][:2] == ["1.000 [0.975, 1.025]", "-0.200 [-0.200, -0.200]"]
    assert table.LOSSES in built.intro
    write_table(built, tmp_path, "18 runs")
    row, *_ = csv.DictReader((tmp_path / "methods.csv").read_text(encoding="utf-8").splitlines())
    assert (row["metric"], row["score"], row["less_lora_low"]) == ("loss", "1.000000", "-0.200000")


def test_pefts_order_is_the_same_if_the_lowest_loss_has_its_highest_accuracy(
    make_referenced: Callable[..., RunRecord],
) -> None:
    """Their accuracies are those of the published table; ours are losses that fall as these rise."""
    published = best_of_methods(load_published(table.PUBLISHED), "accuracy")
    theirs = {name: float(row["accuracy"]) for name, row in published.items()}
    some = [name for name in ("ft", "lora", "dora", "ia3", "vera", "adalora") if name in theirs]
    runs = [make_referenced(3 - theirs[name] / 50, f"method={name}") for name in some]
    [section] = table.build(select(runs)).sections
    assert f"by loss tau +1.00 (p 0.003, {len(some)} methods)" in section.header["Order of methods, ours and PEFT's"]


def test_both_directions_in_one_figure_are_explained(runs: list[RunRecord], scored_by_loss: list[RunRecord]) -> None:
    drawing = methods.draw(select([*runs, *scored_by_loss]))
    assert drawing is not None
    assert "Up and left is better; of a loss" in drawing.caption
    assert {ax.get_ylabel() for ax in drawing.figure.axes} >= {
        "Mean over 2 tasks × 100, on dev", "Loss (lower is better), on test"
    }  # fmt: skip


def test_nothing_is_drawn_if_all_runs_shared_their_steps(runs: list[RunRecord]) -> None:
    """Their peak memory is that of several runs."""
    for run in runs:
        run.packed = 3
    assert methods.draw(select(runs)) is None


def test_losses_leave_the_axis_at_the_other_end_than_scores() -> None:
    scores = [Estimate(mean=80 + step / 4, low=None, high=None) for step in range(MANY)]
    far = Estimate(mean=25.0, low=None, high=None)
    losses = [score.times(-1) for score in (*scores, far)]
    assert inside_fence(losses, Scale(True)) == losses[:-1]
    assert inside_fence([*scores, far], Scale(False)) == scores


def test_a_loss_far_above_all_others_is_a_number_at_the_end_of_its_line(
    make_referenced: Callable[..., RunRecord],
) -> None:
    names = swept("methods_decoder", "method")[:MANY]
    losses = [1 + place / 100 for place in range(len(names) - 1)] + [9.0]
    runs = [make_referenced(loss, f"method={name}") for name, loss in zip(names, losses, strict=True)]
    drawing = methods.draw(select(runs))
    assert drawing is not None
    left, _, listed = drawing.figure.axes
    assert [text.get_text() for text in listed.texts] == ["9.000 →"]
    assert max(y for _, y in markers(left)) < 2
    assert left.get_ylim()[1] < 2


def test_of_many_scores_those_far_below_all_others_leave_the_axis() -> None:
    close, far = [80 + step / 4 for step in range(MANY - 1)], 25.0
    lower, upper = (np.percentile([*close, far], q, method="weibull") for q in (25, 75))
    assert fence_of([*close, far]) == pytest.approx(lower - 3 * (upper - lower))
    assert far < fence_of([*close, far]) < min(close)
    assert fence_of([*close[1:], far]) == -np.inf
