import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.paper.figure2 import LOWEST, draw
from rosa_bench.report.make_figures import make_figures
from rosa_bench.system.errors import UserError

MakeRecord = Callable[..., RunRecord]

FILES = ["figure2.md", "figure2.svg"]
EPOCHS = np.array([1, 2, 3])
MLP1, MLP2 = ("model=mlp1",), ("model=mlp2",)
# (replicates, epochs) by method and rank. Means of the last epoch: 0.5, ..., chosen to be easy to tell apart.
LOSSES = {
    ("method=ft",): [[1.0, 0.1, 0.001], [1.2, 0.3, 0.003]],
    ("method=lora", "rank=1"): [[1.0, 0.7, 0.45], [1.2, 0.9, 0.55]],
    ("method=lora", "rank=8"): [[1.0, 0.5, 0.1], [1.2, 0.7, 0.3]],
    ("method=rosa", "rank=1"): [[1.0, 0.4, 0.04], [1.2, 0.6, 0.08]],
}
LABELS = ["FT", "LoRA (r=1)", "LoRA (r=8)", "ROSA (r=1)"]
# By rank from 0 on: 0.42 on average at rank 1, 0.17 at rank 8.
BOUNDS = [
    [1.0, 0.40, 0.3, 0.29, 0.28, 0.27, 0.26, 0.25, 0.15, 0.0],
    [1.2, 0.44, 0.4, 0.39, 0.38, 0.3, 0.3, 0.3, 0.19, 0],
]


@pytest.fixture
def runs(make_synthetic: MakeRecord) -> list[RunRecord]:
    """FT, LoRA with two ranks, and ROSA, on both models."""
    linear = [make_synthetic(losses, *MLP1, *which, bounds=BOUNDS) for which, losses in LOSSES.items()]
    return [*linear, *(make_synthetic(losses, *MLP2, *which) for which, losses in LOSSES.items())]


def drawn(records: Iterable[RunRecord]) -> Drawing:
    drawing = draw(select(records))
    assert drawing is not None
    return drawing


def columns(drawing: Drawing) -> list[list[Axes]]:
    """Axes of each panel: two, stacked, with the same curves in different ranges."""
    found: dict[int, list[Axes]] = {}
    for ax in drawing.figure.axes:
        place = ax.get_subplotspec()
        assert place is not None
        found.setdefault(place.colspan.start, []).append(ax)
    return [found[column] for column in sorted(found)]


def curves(ax: Axes) -> dict[str, Line2D]:
    """The curves over epochs, by label."""
    return {str(line.get_label()): line for line in ax.lines if len(np.asarray(line.get_xdata())) == len(EPOCHS)}


def levels(ax: Axes) -> list[float]:
    """Heights of the horizontal lines."""
    across = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 2]
    assert all(len(set(np.asarray(line.get_ydata()))) == 1 for line in across)
    return sorted(float(np.asarray(line.get_ydata())[0]) for line in across)


def table(drawing: Drawing) -> dict[str, list[str]]:
    """Rows of the caption's table, by their first cell."""
    lines = [line.strip("|").split("|") for line in drawing.caption.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    return {first: others for first, *others in rows}


def save(records: Iterable[RunRecord], folder: Path) -> None:
    for record in records:
        save_record(record, folder)


# Drawing


def test_each_model_has_its_panel(runs: list[RunRecord]) -> None:
    panels = columns(drawn(runs))
    titles = [[ax.get_title(loc="left") for ax in panel if ax.get_title(loc="left")] for panel in panels]
    assert titles == [["(a) linear map"], ["(b) two-layer perceptron"]]
    assert [len(columns(drawn(some))) for some in (runs[:4], runs[4:])] == [1, 1]


def test_there_may_be_many_models(make_synthetic: MakeRecord) -> None:
    values = to_values(make_synthetic([[0.5, 0.3]], "method=lora"))
    runs = []
    for number in range(9):
        config = {**values["config"], "model": {**values["config"]["model"], "name": f"mlp_{number}"}}
        runs.append(from_values({**values, "id": f"run-{number}", "config": config}))
    assert len(columns(drawn(runs))) == 9


def test_runs_of_a_cell_with_other_numbers_of_epochs_are_not_averaged(make_synthetic: MakeRecord) -> None:
    whole = [make_synthetic([[0.5, 0.3, 0.2]], f"method={method}", "seed=0") for method in ("lora", "rosa")]
    short = make_synthetic([[0.5, 0.3, 0.2]], "method=rosa", "seed=1")
    [[_, ax]] = columns(drawn([*whole, short]))
    assert list(curves(ax)) == ["LoRA (r=8)", "ROSA (r=8)"]
    short.scores.epochs.pop()
    [[_, ax]] = columns(drawn([*whole, short]))
    assert list(curves(ax)) == ["LoRA (r=8)"]


def test_a_curve_is_the_mean_over_replicates_shaded_by_their_range(runs: list[RunRecord]) -> None:
    for panel in columns(drawn(runs)):
        for ax in panel:
            lines = curves(ax)
            assert list(lines) == LABELS
            assert len(ax.collections) == len(LABELS)
            for losses, line, shade in zip(LOSSES.values(), lines.values(), ax.collections, strict=True):
                expected = np.array(losses)
                np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
                np.testing.assert_allclose(np.asarray(line.get_ydata()), expected.mean(0))
                outline = np.asarray(shade.get_paths()[0].vertices)
                for epoch, each in zip(EPOCHS, expected.T, strict=True):
                    heights = outline[outline[:, 0] == epoch, 1]
                    assert (heights.min(), heights.max()) == (each.min(), each.max())


def test_known_bounds_are_drawn(runs: list[RunRecord]) -> None:
    linear, other = columns(drawn(runs))
    for ax in linear:
        assert levels(ax) == pytest.approx([0.17, 0.42])  # only the ranks that LoRA was run with
    for ax in other:
        assert levels(ax) == []


def test_replicates_of_all_seeds_are_drawn_together(make_synthetic: MakeRecord) -> None:
    bounds = [[[1.0, 0.1], [1.0, 0.2]], [[1.0, 0.3], [1.0, 0.8]]]
    records = [
        make_synthetic([[1.0, 0.5, low], [1.0, 0.5, high]], "method=lora", "rank=1", f"seed={seed}", bounds=known)
        for seed, (low, high, known) in enumerate(zip((0.2, 0.3), (0.4, 0.9), bounds, strict=True))
    ]
    drawing = drawn(records)
    assert table(drawing)["LoRA (r=1)"] == ["0.45 (0.2 to 0.9)", "0.35"]
    assert "range over 4 independent problems" in drawing.caption
    for ax in columns(drawing)[0]:
        assert np.asarray(curves(ax)["LoRA (r=1)"].get_ydata())[-1] == pytest.approx(0.45)
        assert levels(ax) == pytest.approx([0.35])


def test_no_bound_is_drawn_if_a_run_has_none(make_synthetic: MakeRecord) -> None:
    losses = [[1.0, 0.5, 0.4]]
    records = [
        make_synthetic(losses, "method=lora", "rank=1", "seed=0", bounds=[[1.0, 0.1]]),
        make_synthetic(losses, "method=lora", "rank=1", "seed=1"),
    ]
    assert all(levels(ax) == [] for ax in columns(drawn(records))[0])


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("low", [1e-3, 1e-12])
def test_no_panel_cuts_off_another_panels_curves(make_synthetic: MakeRecord, order: int, low: float) -> None:
    """Panels share an axis, so its limits must include all curves, down to the intended lower limit."""
    ends = [low, 0.9][::order]
    records = [
        make_synthetic([[1.1, 1.0, height]], *model, *method)
        for model, end in zip((MLP1, MLP2), ends, strict=True)
        for method, height in ((("method=ft",), end), (("method=lora", "rank=1"), 0.95))
    ]
    for panel in columns(drawn(records)):
        views = [ax.get_ylim() for ax in panel]
        for ax in panel:
            for height in np.concatenate([np.asarray(line.get_ydata()) for line in curves(ax).values()]):
                assert height < LOWEST or any(bottom <= height <= top for bottom, top in views)


def test_changed_variants_are_drawn_only_without_the_unchanged_one(
    make_synthetic: MakeRecord, runs: list[RunRecord]
) -> None:
    changed = [
        make_synthetic(
            [[0.5, 0.5, 0.5], [0.6, 0.6, 0.6]], *MLP1, "method=rosa", "rank=1", f"method.resample_every={period}",
            deviations={"method.resample_every": [period, 20]}, started_at="2025-01-01T00:00:00+00:00",
        )
        for period in (1, 5)
    ]  # fmt: skip
    without, with_them = drawn(runs), drawn([*changed, *runs])
    assert with_them.caption == without.caption
    assert "resampled every 20 epochs." in without.caption
    for panel in columns(with_them):
        assert all(list(curves(ax)) == LABELS for ax in panel)
    alone = drawn([*changed, *(run for run in runs if run.settings.method.name != "rosa")])
    labels = ["ROSA (r=1, resample_every=1)", "ROSA (r=1, resample_every=5)"]
    for label in labels:
        assert f"| {label} | 0.55 (0.5 to 0.6) |" in alone.caption
    assert set(labels) <= set(curves(alone.figure.axes[0]))


def test_runs_nearest_to_the_protocol_are_drawn(make_synthetic: MakeRecord, runs: list[RunRecord]) -> None:
    losses = [[2.0, 2.0, 2.0]] * 2
    decayed = [
        make_synthetic(losses, *MLP1, *which, f"seed={seed}", "optimizer.weight_decay=0.5", bounds=BOUNDS)
        for which in LOSSES
        for seed in (3, 4)
    ]
    assert drawn([*decayed, *runs]).caption == drawn(runs).caption
    usual = "epochs=3, task.replicates=2"  # in every run of these tests
    assert f"Protocol paper ({usual}); some CPU, float32." in drawn(runs).caption
    assert f"Protocol paper ({usual.replace(',', ', optimizer.weight_decay=0.5,')}); some CPU" in drawn(decayed).caption


def test_other_tasks_are_not_drawn(make_record: MakeRecord, runs: list[RunRecord]) -> None:
    others = [make_record(f"task={task}", f"method={method}") for task in ("cola", "rte") for method in ("ft", "lora")]
    assert draw(select(others)) is None
    assert drawn([*others, *runs]).caption == drawn(runs).caption


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_unfinished_runs_are_not_drawn(make_synthetic: MakeRecord, status: str) -> None:
    assert draw(select([make_synthetic([[1.0, 0.5, 0.4]], status=status)])) is None


# Caption


def test_the_caption_has_the_final_losses_and_the_bounds(runs: list[RunRecord]) -> None:
    drawing = drawn(runs)
    assert table(drawing) == {
        "final loss": ["linear map", "two-layer perceptron", "bound, linear map"],
        "---": ["---"] * 3,
        "FT": ["0.002 (0.001 to 0.003)"] * 2 + [""],
        "LoRA (r=1)": ["0.5 (0.45 to 0.55)"] * 2 + ["0.42"],
        "LoRA (r=8)": ["0.2 (0.1 to 0.3)"] * 2 + ["0.17"],
        "ROSA (r=1)": ["0.06 (0.04 to 0.08)"] * 2 + [""],
    }
    for words in (
        "synthetic data (made by a program)", "of rank 24", "512 inputs, 32 outputs, 5,000 train and 1,000 validation",
        "range over 2 independent problems", "lr 0.001", "batch 64", "3 epochs", "every 20 epochs",
    ):  # fmt: skip
        assert words in drawing.caption


def test_a_variant_missing_for_one_model_has_a_dash(runs: list[RunRecord]) -> None:
    linear, fine_tuned = runs[:4], runs[4]
    rows = table(drawn([*linear, fine_tuned]))
    assert rows["FT"] == ["0.002 (0.001 to 0.003)"] * 2 + [""]
    assert rows["ROSA (r=1)"] == ["0.06 (0.04 to 0.08)", "–", ""]


# Output


def test_figures_are_written_and_their_captions_printed(
    runs: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(runs, tmp_path)
    make_figures(tmp_path)
    folder = tmp_path / "figures"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert ET.parse(folder / "figure2.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    text = (folder / "figure2.md").read_text(encoding="utf-8")
    assert text == f"![figure2](figure2.svg)\n\n{drawn(runs).caption}\n"
    printed = capsys.readouterr().out
    assert "Figure 2." in printed
    assert "0.5 (0.45 to 0.55)" in printed
    assert printed.splitlines()[-1].startswith(f"written to {folder / 'figure2.svg'}")


@pytest.mark.parametrize(("kind", "magic"), [("pdf", b"%PDF-"), ("png", b"\x89PNG\r\n\x1a\n")])
def test_another_kind_of_picture_is_written_if_asked(
    runs: list[RunRecord], tmp_path: Path, kind: str, magic: bytes
) -> None:
    save(runs, tmp_path)
    make_figures(tmp_path, kind=kind)
    found = (tmp_path / f"figures/figure2.{kind}").read_bytes()
    assert found.startswith(magic)
    assert b"CreationDate" not in found
    assert (tmp_path / "figures/figure2.svg").is_file()


@pytest.mark.parametrize("kind", ["nothing", "failed", "text"])
def test_without_anything_to_draw_the_error_says_what_to_run(
    make_record: MakeRecord, make_synthetic: MakeRecord, tmp_path: Path, kind: str
) -> None:
    some: dict[str, list[RunRecord]] = {
        "nothing": [], "failed": [make_synthetic([[1.0]], status="failed")], "text": [make_record()],
    }  # fmt: skip
    save(some[kind], tmp_path)
    with pytest.raises(UserError, match=r"no completed run .*rosa-bench -m \+experiment=figure2") as caught:
        make_figures(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "figures").exists()


def test_the_command_does_not_import_torch_and_the_same_records_give_the_same_files(
    runs: list[RunRecord], tmp_path: Path
) -> None:
    save(runs, tmp_path / "res")
    save(runs[::-1], tmp_path / "reversed")
    heavy = ("torch", "transformers", "datasets", "evaluate")
    program = (
        "import sys\n"
        "sys.argv = ['rosa-bench', 'figures', 'results_dir=res']\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
        f"print('imported:', [name for name in {heavy} if name in sys.modules])\n"
    )
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert sorted(path.name for path in (tmp_path / "res/figures").iterdir()) == FILES
    make_figures(tmp_path / "reversed")  # in this process, from the same records in another order
    for name in FILES:
        assert (tmp_path / "res/figures" / name).read_bytes() == (tmp_path / "reversed/figures" / name).read_bytes()
