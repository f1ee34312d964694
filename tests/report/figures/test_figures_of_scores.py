"""Figures 3, 4 and 6 and learning rate sensitivity: they draw the values in the records."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from rosa_bench.records.parts.mappings import PeakBytes
from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.settings import variant_of
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.paper import figure3, figure4, figure6
from rosa_bench.report.figures.studies import lr_changed, lr_sensitivity

MakeRecord = Callable[..., RunRecord]
MIB = 2**20
GENERATOR = np.random.default_rng(0)

DRAW: dict[str, Callable[[list[RunRecord]], Drawing | None]] = {
    "figure3": lambda records: figure3.draw(select(records)),
    "figure4": lambda records: figure4.draw(select(records)),
    "figure6": lambda records: figure6.draw(select(records)),
    "lr_sensitivity": lr_sensitivity.draw,
}
FAIR = ("protocol=fair",)
FT, LORA, LORA2, ROSA, ROSA2 = (
    ("method=ft",), ("method=lora",), ("method=lora", "rank=2"), ("method=rosa",), ("method=rosa", "rank=2"),
)  # fmt: skip


@pytest.fixture
def scored(make_record: MakeRecord) -> MakeRecord:
    """``scored([0.1, 0.3], "method=lora")``: a run with these scores, one per epoch; the best is also its dev score."""

    def make(
        scores: Sequence[float],
        *overrides: str,
        losses: Sequence[float] | None = None,
        memory: dict[str, int] | None = None,
        **changes: Any,
    ) -> RunRecord:
        record = make_record("task=cola", *overrides, **{"dev": max(scores), **changes})
        losses = losses or [1 - score for score in scores]
        reported = record.scores.reported
        record.scores.epochs = [
            EpochScores(train_loss=loss, scores={reported: score, "loss": 9.0}, time_s=1.0)
            for score, loss in zip(scores, losses, strict=True)
        ]
        measured = {"load": 900 * MIB, "train": 100 * MIB, "evaluate": 800 * MIB} if memory is None else memory
        record.memory_bytes = PeakBytes(measured)
        return record

    return make


@pytest.fixture
def runs(scored: MakeRecord) -> list[RunRecord]:
    """Five variants, three learning rates and three seeds in two settings: enough for all figures."""
    records = []
    for protocol in ((), FAIR):
        for method in (FT, LORA, LORA2, ROSA, ROSA2):
            for lr in ("1e-3", "1e-4", "1e-5"):
                for seed in range(3):
                    scores = GENERATOR.uniform(0.1, 0.8, 4).tolist()
                    held_out = GENERATOR.uniform() if protocol else None
                    memory = {"train": int(GENERATOR.integers(10**8, 10**9)), "resample": 5 * 10**8}
                    records.append(
                        scored(
                            scores, *protocol, *method, f"lr={lr}", f"seed={seed}", held_out=held_out, memory=memory,
                            dev=float(GENERATOR.uniform()),
                        )
                    )  # fmt: skip
    return records


def drawn(name: str, records: Iterable[RunRecord]) -> Drawing:
    drawing = DRAW[name](list(records))
    assert drawing is not None
    assert drawing.name == name
    return drawing


def by_title(drawing: Drawing) -> dict[str, list[Axes]]:
    """Axes of each panel from left to right, keyed by the panel's title on one line without its letter.

    A title that is there already gets a number.
    """
    found: dict[str, list[Axes]] = {}
    for ax in drawing.figure.axes:
        if title := ax.get_title(loc="left"):
            name = title.replace("\n", " ")[4:]
            found[name if name not in found else f"{name} {len(found)}"] = []
        if ax.get_visible():
            list(found.values())[-1].append(ax)
    return found


def lines(ax: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in ax.lines if not str(line.get_label()).startswith("_")}


def marked(ax: Axes) -> list[tuple[float, float]]:
    """Positions of the larger markers."""
    large = [line for line in ax.lines if line.get_markersize() == lr_sensitivity.CHOSEN_SIZE]
    return [(float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])) for line in large]


def bars(ax: Axes) -> list[float]:
    """Lengths of the horizontal bars, from top to bottom."""
    return [bar.get_width() for some in ax.containers if isinstance(some, BarContainer) for bar in some]


def label(record: RunRecord) -> str:
    method = record.settings.method
    return method.title if method.rank is None else f"{method.title} (r={method.rank})"


def of(records: Iterable[RunRecord], protocol: str, variant: str) -> list[RunRecord]:
    return [one for one in records if one.settings.protocol.name == protocol and label(one) == variant]


def chosen_lr(records: list[RunRecord]) -> float:
    """Independently of `select`, find the learning rate with the highest median selection score."""
    lrs = sorted({record.settings.lr for record in records})
    medians = [
        np.median(
            [
                one.selection_score if one.scores.selected_on == "held_out" else reported(one)
                for one in records
                if one.settings.lr == lr
            ]
        )
        for lr in lrs
    ]
    return lrs[int(np.argmax(medians))]


def reported(record: RunRecord) -> float:
    return record.selected["matthews_correlation"]


def assert_mean_and_range(ax: Axes, variant: str, x: Sequence[float], values: np.ndarray) -> None:
    """``values``: (seeds, points)."""
    line = lines(ax)[variant]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), x)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), values.mean(0))
    shade = ax.collections[list(lines(ax)).index(variant)]
    outline = np.asarray(shade.get_paths()[0].vertices)
    for place, column in zip(x, values.T, strict=True):
        heights = outline[np.isclose(outline[:, 0], place), 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [column.min(), column.max()])


VARIANTS = ["FT", "LoRA (r=2)", "LoRA (r=8)", "ROSA (r=2)", "ROSA (r=8)"]
SETTINGS = {name: f"CoLA: RoBERTa-base, protocol {name}" for name in ("paper", "fair")}


# Drawing


def test_figure_6_shows_the_epochs_of_the_chosen_learning_rate(runs: list[RunRecord]) -> None:
    panels = by_title(drawn("figure6", runs))
    assert set(panels) == set(SETTINGS.values())
    for protocol, title in SETTINGS.items():
        left, right = panels[title]
        of_one_rank = [variant for variant in VARIANTS if "r=2" not in variant]  # as many runs as rank 8
        assert list(lines(left)) == list(lines(right)) == of_one_rank
        for variant in of_one_rank:
            same = of(runs, protocol, variant)
            best = [run.scores.epochs for run in same if run.settings.lr == chosen_lr(same)]
            losses = np.array([[epoch.train_loss for epoch in epochs] for epochs in best])
            scores = np.array([[epoch.scores["matthews_correlation"] for epoch in epochs] for epochs in best])
            assert losses.shape == scores.shape == (3, 4)
            assert_mean_and_range(left, variant, [1, 2, 3, 4], losses)
            assert_mean_and_range(right, variant, [1, 2, 3, 4], 100 * scores)


def test_figure_4_shows_each_method_at_its_ranks_and_ft_in_both(runs: list[RunRecord]) -> None:
    panels = by_title(drawn("figure4", runs))
    for protocol, title in SETTINGS.items():
        lowest = min(ax.dataLim.ymin for ax in panels[title])
        low, high = panels[title][0].get_ylim()
        assert lowest - low > 0.1 * (high - low)  # room for the method's name
        for ax, method in zip(panels[title], ("ROSA", "LoRA"), strict=True):
            assert list(lines(ax)) == ["FT", f"{method} (r=2)", f"{method} (r=8)"]
            for variant in lines(ax):
                same = of(runs, protocol, variant)
                best = [run.scores.epochs for run in same if run.settings.lr == chosen_lr(same)]
                scores = [[epoch.scores["matthews_correlation"] for epoch in epochs] for epochs in best]
                assert_mean_and_range(ax, variant, [1, 2, 3, 4], 100 * np.array(scores))


def test_sensitivity_shows_every_learning_rate_and_marks_the_chosen_one(runs: list[RunRecord]) -> None:
    panels = by_title(drawn("lr_sensitivity", runs))
    misled = 0
    for protocol, title in SETTINGS.items():
        [ax] = panels[title]
        assert ax.get_xscale() == "log"
        assert list(lines(ax)) == VARIANTS
        for variant, point in zip(VARIANTS, marked(ax), strict=True):
            same = of(runs, protocol, variant)
            lrs = sorted({run.settings.lr for run in same})
            scores = np.array([[reported(run) for run in same if run.settings.lr == lr] for lr in lrs]).T
            assert_mean_and_range(ax, variant, lrs, 100 * scores)
            best = chosen_lr(same)
            assert point == pytest.approx((best, 100 * scores.mean(0)[lrs.index(best)]))
            misled += best != lrs[int(scores.mean(0).argmax())]
    assert misled  # in some case held-out rows and dev choose differently


def test_a_learning_rate_with_fewer_seeds_has_an_open_marker_and_is_never_chosen(scored: MakeRecord) -> None:
    compared = [scored([0.3], f"lr={lr}", f"seed={seed}") for lr in ("1e-3", "1e-4") for seed in (0, 1)]
    drawing = drawn("lr_sensitivity", [*compared, scored([0.9], "lr=1e-2", "seed=0")])
    [ax] = drawing.figure.axes
    [opened] = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert (list(np.asarray(opened.get_xdata())), list(np.asarray(opened.get_ydata()))) == ([1e-2], [90])
    [point] = marked(ax)
    assert point == pytest.approx((1e-4, 30))
    assert "Open markers" in drawing.caption


def test_sensitivity_leaves_out_what_has_no_score(scored: MakeRecord) -> None:
    def swept(dev: float | None, *overrides: str) -> list[RunRecord]:
        return [scored([0.5], *overrides, f"lr={lr}", dev=dev) for lr in ("1e-3", "1e-4")]

    assert lr_sensitivity.draw(swept(None, *LORA)) is None
    drawing = drawn("lr_sensitivity", [*swept(None, *LORA), *swept(0.5, *FT), *swept(None, *FT, *FAIR)])
    [ax] = drawing.figure.axes
    assert list(lines(ax)) == ["FT"]
    assert drawing.picture("svg")
    never = {"method.resample_every": [0, 2]}
    runs = [scored([0.5], *ROSA, f"lr={lr}", dev=None, deviations=never) for lr in ("1e-3", "1e-4")]
    assert lr_changed.draw(runs) is None


def changed(
    scored: MakeRecord, *overrides: str, lrs: Sequence[str] = ("1e-3", "1e-4"), **changes: Any
) -> list[RunRecord]:
    """ROSA with changed settings such as ``resample_every=0``, one run per learning rate."""
    deviations = {f"method.{key}": [value, "else"] for key, value in changes.items()}
    return [scored([float(lr) * 100], *ROSA, *overrides, f"lr={lr}", deviations=deviations) for lr in lrs]


def test_changed_variants_are_drawn_with_the_one_they_are_changed_from(
    scored: MakeRecord, runs: list[RunRecord]
) -> None:
    never, top = changed(scored, resample_every=0), changed(scored, lrs=["1e-3"], select="top")
    drawing = lr_changed.draw([*runs, *never, *top])
    assert drawing is not None
    [ax] = [one for one in drawing.figure.axes if one.get_title() == "resample_every"]
    assert list(lines(ax)) == ["ROSA (r=8)", "ROSA (r=8, resample_every=0)"]
    plain = of(runs, "paper", "ROSA (r=8)")
    lrs = sorted({run.settings.lr for run in plain})
    scores = np.array([[reported(run) for run in plain if run.settings.lr == lr] for lr in lrs]).T
    assert_mean_and_range(ax, "ROSA (r=8)", lrs, 100 * scores)
    assert_mean_and_range(ax, "ROSA (r=8, resample_every=0)", [1e-4, 1e-3], np.array([[1, 10]]))


def test_no_figure_of_changed_variants_without_a_sweep(scored: MakeRecord, runs: list[RunRecord]) -> None:
    assert lr_changed.draw(runs) is None
    assert lr_changed.draw([*runs, *changed(scored, lrs=["1e-3"], select="top")]) is None


def test_figure_3_shows_the_peak_of_training_and_resampling_only(scored: MakeRecord) -> None:
    trained = {"load": 9000 * MIB, "evaluate": 8000 * MIB}
    records = [
        *(scored([0.5], *FT, f"seed={seed}", memory=trained | {"train": (500 + seed) * MIB}, trainable=10**8)
          for seed in (0, 2)),
        scored([0.5], *ROSA, memory=trained | {"train": 200 * MIB, "resample": 250 * MIB}, trainable=10**5),
        scored([0.5], *LORA, memory=trained | {"train": 200 * MIB}, trainable=10**5),
    ]  # fmt: skip
    left, right = drawn("figure3", records).figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["FT", "LoRA (r=8)", "ROSA (r=8)"]
    assert bars(left) == [501, 200, 250]
    ends = [np.asarray(some.get_segments()[0])[:, 0].tolist() for some in left.collections]  # pyrefly: ignore[missing-attribute]
    assert ends == [[500, 502], [200, 200], [250, 250]]
    assert [text.get_text() for text in left.texts] == ["501", "200", "250"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in right.lines] == [10**8, 10**5, 10**5]
    assert [text.get_text() for text in right.texts] == ["100 M", "100 k", "100 k"]


def test_figure_3_has_a_zero_and_no_point_for_a_method_that_trains_nothing(scored: MakeRecord) -> None:
    records = [scored([0.5], *LORA, trainable=0), scored([0.5], *FT, trainable=10**8)]
    for some in (records, records[:1]):
        drawing = drawn("figure3", some)
        _, right = drawing.figure.axes
        sizes = {text.get_text(): line.get_markersize() for text, line in zip(right.texts, right.lines, strict=True)}
        assert sizes["0"] == 0
        assert right.get_xlim()[0] > 0
        assert drawing.picture("svg")


def test_figure_3_uses_one_device(scored: MakeRecord) -> None:
    def on(name: str, peak: int, *overrides: str) -> RunRecord:
        device = {"type": "cuda", "name": name, "precision": "bfloat16"}
        return scored([0.5], *overrides, device=device, memory={"train": peak * MIB})

    records = [on("A", 100, *FT, "seed=0"), on("A", 120, *LORA), on("B", 900, *FT, "seed=1"), on("B", 800, *ROSA)]
    drawing = drawn("figure3", records)
    assert bars(drawing.figure.axes[0]) == [100, 120]
    assert "(A)" in drawing.caption
    assert "(B)" not in drawing.caption


def test_figure_3_uses_only_measured_runs(scored: MakeRecord) -> None:
    some = scored([0.5], *FT, "seed=0", memory={"train": 100 * MIB})
    records = [some, scored([0.5], *FT, "seed=1", memory={}), scored([0.5], *LORA, memory={})]
    assert bars(drawn("figure3", records).figure.axes[0]) == [100]
    assert figure3.draw(select(records[1:])) is None


@pytest.mark.parametrize(
    ("kind", "said"), [("cuda", "CUDA allocator"), ("cpu", "resident memory of the whole process")]
)
def test_figure_3_says_what_was_measured(scored: MakeRecord, kind: str, said: str) -> None:
    caption = drawn("figure3", [scored([0.5], device={"type": kind, "name": "one", "precision": "float32"})]).caption
    assert said in caption
    assert ("shared GPU" in caption) == (kind == "cuda")


# Separation and exclusion


@pytest.mark.parametrize("name", DRAW)
def test_settings_are_never_mixed(scored: MakeRecord, name: str) -> None:
    others: list[dict[str, Any]] = [
        {}, {"deviations": {"epochs": [2, 10]}}, {"device": {"type": "cpu", "name": "x", "precision": "float32"}},
    ]  # fmt: skip
    records = [
        scored([0.1, 0.1 * (place + 1)], *method, f"lr={lr}", memory={"train": place + 1}, trainable=place + 1, **other)
        for place, other in enumerate(others)
        for method in (ROSA, ROSA2)
        for lr in ("1e-3", "1e-4")
    ]
    panels = list(by_title(drawn(name, records)).values())
    assert len(panels) == 3
    for place in range(3):
        [alone] = by_title(drawn(name, records[4 * place : 4 * place + 4])).values()
        assert contents(alone) in list(map(contents, panels))
        assert any(ax.lines or bars(ax) for ax in alone)


def contents(axes: Iterable[Axes]) -> list[object]:
    """What the axes of a panel show: points of lines, and bars."""
    return [([np.asarray(line.get_xydata()).tolist() for line in ax.lines], bars(ax)) for ax in axes]


@pytest.mark.parametrize("name", DRAW)
def test_cola_comes_first_then_tasks_with_most_runs_up_to_a_limit(scored: MakeRecord, name: str) -> None:
    """CoLA comes before tasks with more runs; the model with most runs before others; deviating settings last."""
    sets = {"cola": 1, "rte": 2, "mrpc": 6, "qnli": 5, "sst2": 4}
    groups = [(f"task={task}", "model=roberta_base", {}, count) for task, count in sets.items()]
    groups += [("task=cola", "model=minilm", {}, 3), ("task=cola", "model=roberta_base", {"epochs": [2, 10]}, 7)]
    records = [
        scored([0.1, 0.2], task, model, *method, f"lr={lr}", f"seed={seed}", deviations=changes)
        for task, model, changes, count in groups
        for method in (ROSA, ROSA2)
        for lr in ("1e-3", "1e-4")
        for seed in range(count)
    ]
    titles = [title.partition(",")[0] for title in by_title(drawn(name, records))]
    tasks = ["CoLA", "MRPC", "QNLI", "SST-2", "RTE"]
    expected = [*(f"{task}: RoBERTa-base" for task in tasks), "CoLA: MiniLM-L6", "CoLA: RoBERTa-base"]
    assert titles == (expected if name == "lr_sensitivity" else expected[:4])


@pytest.mark.parametrize("name", DRAW)
def test_the_protocols_of_a_task_are_drawn_next_to_each_other(scored: MakeRecord, name: str) -> None:
    counts = {("rte", "fair"): 3, ("mrpc", "fair"): 4, ("rte", "paper"): 2}
    records = [
        scored([0.1, 0.2], f"task={task}", f"protocol={protocol}", *method, f"lr={lr}", f"seed={seed}")
        for (task, protocol), count in counts.items()
        for method in (ROSA, ROSA2)
        for lr in ("1e-3", "1e-4")
        for seed in range(count)
    ]
    found = [(title[:4].strip(":"), title.split("protocol ")[1][:5]) for title in by_title(drawn(name, records))]
    assert found == [("RTE", "fair"), ("RTE", "paper"), ("MRPC", "fair")]


@pytest.mark.parametrize("name", ["figure4", "figure6"])
def test_the_papers_rosa_is_drawn_beside_one_that_never_resamples(scored: MakeRecord, name: str) -> None:
    other, theirs = ({"method.resample_every": [every, 0]} for every in (3, 2))
    own = [scored([0.9] * 4, *method, *FAIR, "epochs=4") for method in (ROSA, ROSA2)]
    every = [
        scored([0.9] * 4, *ROSA, *FAIR, "epochs=4", f"method.resample_every={period}", deviations=changes)
        for period, changes in ((2, theirs), (3, other))
    ]
    drawing = drawn(name, [*own, *every])
    found = {label for ax in drawing.figure.axes for label in lines(ax)}
    lower = set() if name == "figure6" else {"ROSA (r=2)"}
    assert found == {"ROSA (r=8)", "ROSA (r=8, resample_every=2)"} | lower
    assert "ROSA is never resampled unless its name has a period." in drawing.caption
    assert "unless its name" not in drawn(name, [scored([0.9] * 4, *method) for method in (ROSA, ROSA2)]).caption


@pytest.mark.parametrize("name", DRAW)
def test_changed_variants_are_drawn_only_without_the_unchanged_one(
    scored: MakeRecord, runs: list[RunRecord], name: str
) -> None:
    changed = [
        scored([0.9] * 4, *method, "method.resample_every=0", f"lr={lr}", deviations={"method.resample_every": [0, 2]})
        for method in (ROSA, ROSA2)
        for lr in ("1e-3", "1e-4")
    ]
    if name == "lr_sensitivity":  # they have a figure of their own
        assert DRAW[name](changed) is None
    else:
        texts = {text.get_text() for text in drawn(name, changed).figure.findobj(Text)}
        ranks = (8,) if name == "figure6" else (2, 8)
        assert {variant_of(run).label for run in changed if run.settings.method.rank in ranks} <= texts
    assert drawn(name, [*changed, *runs]).caption == drawn(name, runs).caption


@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_the_axis_names_the_rows_that_epochs_are_scored_on(runs: list[RunRecord], protocol: str) -> None:
    where = {"paper": "on dev", "fair": "on held-out train rows"}[protocol]
    for name in ("figure4", "figure6"):
        labels = [ax.get_ylabel() for ax in by_title(drawn(name, runs))[SETTINGS[protocol]]]
        assert f"Matthews correlation × 100,\n{where}" in labels
    [ax] = by_title(drawn("lr_sensitivity", [run for run in runs if run.settings.protocol.name == protocol])).popitem()[
        1
    ]
    assert ax.get_ylabel() == "Matthews correlation × 100, on dev"


@pytest.mark.parametrize("name", DRAW)
def test_there_is_no_figure_without_anything_to_draw(
    make_record: MakeRecord, make_synthetic: MakeRecord, scored: MakeRecord, name: str
) -> None:
    assert DRAW[name]([]) is None
    assert DRAW[name]([make_record(), make_record("seed=1")]) is None
    assert (
        DRAW[name]([scored([0.5], *method, f"lr={lr}", status="failed") for method in (ROSA, ROSA2) for lr in (1, 2)])
        is None
    )
    errors = [
        make_synthetic([[1.0, 0.5]], *method, f"lr={lr}", memory_bytes={"train": 5})
        for method in (ROSA, ROSA2)
        for lr in (1, 2)
    ]
    assert DRAW[name](errors) is None


def test_figure_4_needs_two_rosa_ranks_in_one_setting(scored: MakeRecord) -> None:
    assert DRAW["figure4"]([scored([0.5], *method) for method in (FT, LORA, LORA2, ROSA)]) is None
    apart = [scored([0.5], *ROSA), scored([0.5], *ROSA2, deviations={"epochs": [1, 10]})]
    assert DRAW["figure4"](apart) is None
    assert len(drawn("figure4", [scored([0.5], *method) for method in (ROSA, ROSA2)]).figure.axes) == 1


def test_sensitivity_needs_two_learning_rates_in_one_setting(scored: MakeRecord) -> None:
    apart = [scored([0.5], "lr=1e-3"), scored([0.5], "lr=1e-4", deviations={"epochs": [1, 10]})]
    assert DRAW["lr_sensitivity"](apart) is None


# Output


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAW)
def test_the_same_records_give_the_same_bytes(runs: list[RunRecord], tmp_path: Path, name: str) -> None:
    written = [
        [path.read_bytes() for path in drawn(name, runs[::order]).write(tmp_path / str(order))] for order in (1, -1)
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_cut_off_and_no_labels_overlap(runs: list[RunRecord], name: str) -> None:
    assert_readable(drawn(name, runs).figure)


def test_many_changed_variants_are_distinguishable_and_legible(scored: MakeRecord) -> None:
    """More variants than colours, with long names, a wide range of learning rates, and two protocols."""
    some = [
        run
        for protocol in ("paper", "fair")
        for period in range(4)
        for select in ("top", "bottom", "block")
        for run in changed(
            scored, f"protocol={protocol}", lrs=["6e-6", "2e-2"], resample_every=period + 0.25, select=select
        )
    ]
    drawing = lr_changed.draw(some)
    assert drawing is not None
    for ax in drawing.figure.axes:
        looks = [(line.get_color(), line.get_linestyle()) for line in lines(ax).values()]
        assert len(set(looks)) == len(looks)
        assert len(looks) in (0, 12)  # none beside the legend
    assert_readable(drawing.figure)


def assert_readable(figure: Figure) -> None:
    """Assert that titles, labels and legend are on the page and do not overlap, nor do an axis's numbers."""
    figure.draw_without_rendering()
    texts = [
        text for ax in figure.axes for text in (ax.xaxis.label, ax.yaxis.label, ax._left_title)  # pyrefly: ignore[missing-attribute]
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    page = figure.bbox
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    for ax in figure.axes:
        labels = [label.get_window_extent() for label in ax.get_xticklabels(which="both") if label.get_text()]
        inside = sorted(
            (box for box in labels if ax.bbox.x0 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1), key=lambda box: box.x0
        )
        assert not any(left.overlaps(right) for left, right in pairwise(inside))
