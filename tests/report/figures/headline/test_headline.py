"""The headline shows what ``compare`` computes, beside what the paper printed, and what capacity experiments recall."""

from collections.abc import Callable

import numpy as np
import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.compare import compare
from rosa_bench.report.comparison import comparison
from rosa_bench.report.figures.drawing import Drawing
from rosa_bench.report.figures.headline import headline
from rosa_bench.report.figures.headline.capacity import ladder_of, verdict
from rosa_bench.report.figures.headline.tasks import rivals_of

MakeRecord = Callable[..., RunRecord]
COLA_LORA, COLA_ROSA = [0.50, 0.55, 0.52, 0.58, 0.51], [0.52, 0.54, 0.56, 0.57, 0.55]
RTE_LORA, RTE_ROSA = [0.60, 0.66, 0.64, 0.61, 0.69], [0.65, 0.61, 0.69, 0.60, 0.68]


@pytest.fixture
def glue(over_seeds: Callable[..., list[RunRecord]]) -> list[RunRecord]:
    """The paper's ROSA and LoRA, rank 8, on three tasks under ``fair``; the last has two seeds."""
    ours, theirs = ("method=rosa", "rank=8"), ("method=lora", "rank=8")
    changed = {"deviations": {"method.resample_every": [2, 0]}}
    scores = {"cola": (COLA_ROSA, COLA_LORA), "rte": (RTE_ROSA, RTE_LORA), "mrpc": ([0.8, 0.9], [0.7, 0.85])}
    return [
        run
        for task, (rosa, lora) in scores.items()
        for run in [
            *over_seeds(rosa, *ours, f"task={task}", "protocol=fair", "method.resample_every=2", **changed),
            *over_seeds(lora, *theirs, f"task={task}", "protocol=fair"),
        ]
    ]


@pytest.fixture
def phonebook(make_memorised: MakeRecord) -> list[RunRecord]:
    """LoRA of two ranks, and ROSA of rank 1 that never resamples, and every 50 and 10 steps; two seeds each."""
    recalls = {
        ("method=lora", "rank=1"): 0.1,
        ("method=lora", "rank=4"): 0.9,
        ("method=rosa", "rank=1", "method.resample_every=0"): 0.2,
        ("method=rosa", "rank=1", "method.resample_every=50", "method.resample_unit=steps"): 0.5,
        ("method=rosa", "rank=1", "method.resample_every=10", "method.resample_unit=steps"): 0.8,
    }
    return [
        make_memorised(recall + 0.01 * seed, *which, f"seed={seed}")
        for which, recall in recalls.items()
        for seed in (0, 1)
    ]


def drawn(records: list[RunRecord]) -> Drawing:
    found = headline.draw(select(records))
    assert found is not None
    return found


def markers(drawing: Drawing, panel: int, marker: str) -> list[tuple[float, float]]:
    """Return the places of all markers of one kind, from top to bottom of the axes' values."""
    lines = [line for line in drawing.figure.axes[panel].lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in np.column_stack(line.get_data())]


def test_the_differences_are_those_of_compare(glue: list[RunRecord]) -> None:
    asked = comparison(["method=rosa,lora", "method.resample_every=2,0", "protocol=fair", "task=cola,rte"])
    [section] = compare(asked, glue).sections
    theirs = [str(entry.mean).removesuffix(" (5)") for entry in section.lines[0].entries]
    table = [line for line in drawn(glue).caption.splitlines() if line.startswith(("| CoLA", "| RTE", "| mean"))]
    ours = [line.split(" | ")[1].replace("\\", "") for line in table]
    assert [ours[0], ours[1], ours[-1]] == theirs[:3]
    rivals = rivals_of(select(glue))
    assert rivals is not None
    by_hand = [np.mean(np.subtract(*pair)) for pair in ((COLA_ROSA, COLA_LORA), (RTE_ROSA, RTE_LORA))]
    drawn_at = [x for x, _ in markers(drawn(glue), 0, "D")]
    assert drawn_at == pytest.approx([100 * value for value in [*by_hand, np.mean(by_hand)]])


def test_stars_are_the_papers_differences(glue: list[RunRecord]) -> None:
    printed = [64.80 - 54.27, 72.56 - 69.31]  # Table 2, rank 8: CoLA, RTE
    assert [x for x, _ in markers(drawn(glue), 0, "*")] == pytest.approx([*printed, np.mean(printed)])


def test_the_paper_has_no_mean_over_a_task_that_it_lacks(
    glue: list[RunRecord], over_seeds: Callable[..., list[RunRecord]]
) -> None:
    changed = {"deviations": {"method.resample_every": [2, 0]}}
    wic = ("task=wic", "protocol=fair", "rank=8")
    rosa = over_seeds(COLA_ROSA, *wic, "method=rosa", "method.resample_every=2", **changed)
    found = rivals_of(select([*glue, *rosa, *over_seeds(COLA_LORA, *wic, "method=lora")]))
    assert found is not None
    assert set(found.shown) - set(found.paper) == {"wic"}
    assert found.paper_mean is None


def test_tasks_with_few_seeds_are_in_the_table_alone(glue: list[RunRecord]) -> None:
    ticks = [label.get_text() for label in drawn(glue).figure.axes[0].get_yticklabels()]
    assert ticks == ["CoLA", "RTE", "mean of 2 tasks"]
    assert "| MRPC |" in drawn(glue).caption
    few = [run for run in glue if run.settings.seed < 2]
    assert len(drawn(few).figure.axes[0].get_yticklabels()) == 4


def test_recall_is_that_of_the_records_at_their_bits_per_parameter(phonebook: list[RunRecord]) -> None:
    [ax] = drawn(phonebook).figure.axes
    assert ax.get_xlabel() and ax.get_ylabel()
    heights = [y for _, y in markers(drawn(phonebook), 0, "D")]
    assert heights == pytest.approx([20.5, 50.5, 80.5])
    assert [y for _, y in markers(drawn(phonebook), 0, "o")] == pytest.approx([10.5, 90.5])
    across = {round(x, 6) for x, _ in markers(drawn(phonebook), 0, "D")}
    bits, trained = phonebook[0].data.facts["bits"], phonebook[0].parameters.trainable
    assert across == {round(bits / trained, 6)}


def test_the_titles_say_what_the_intervals_show(glue: list[RunRecord], phonebook: list[RunRecord]) -> None:
    titles = [ax.get_title(loc="left") for ax in drawn([*glue, *phonebook]).figure.axes]
    assert titles == ["(a) ROSA and LoRA: no difference shown", "(b) Beyond capacity: no gain shown"]
    ladder = ladder_of(select(phonebook))
    assert ladder is not None
    assert ladder.difference is not None
    assert ladder.difference.mean == pytest.approx(0.7)
    assert verdict(ladder) == "no gain shown"  # both seeds agree, so there is no test


def test_without_runs_of_both_methods_there_is_no_headline(glue: list[RunRecord]) -> None:
    assert headline.draw(select([run for run in glue if run.settings.method.name == "rosa"])) is None
    assert headline.draw(select([run for run in glue if run.settings.task.name == "cola"])) is None


def test_the_periods_of_records_older_than_their_unit_are_epochs(glue: list[RunRecord]) -> None:
    for run in glue:
        run.config["method"].pop("resample_unit", None)
        vars(run).pop("settings", None)  # read again from the configuration
    assert "drawn again every 2 epochs." in drawn(glue).caption
