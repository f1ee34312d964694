from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.grid import leader
from rosa_bench.report.cells.selection.select import Cell, choose, select
from rosa_bench.report.cells.settings import Variant, variant_of
from rosa_bench.report.published import load_published
from rosa_bench.report.tables.building.scores import score_table
from rosa_bench.report.tables.building.table import Entry, Section, Table
from rosa_bench.report.writers.text import probability

MakeRecord = Callable[..., RunRecord]
OverSeeds = Callable[..., list[RunRecord]]
OPEN_ENDED = "‡ the smallest, the largest or the only learning rate tried, so a better one may lie beyond"
PAPER_ROWS = ["FT", "(IA)³", "LoRA (r=2)", "ROSA (r=2)", "LoRA (r=8)", "ROSA (r=8)"]
PAPER_COLUMNS = ["CoLA", "MRPC", "QNLI", "RTE", "STS-B", "MNLI", "SST2", "BoolQ"]


def table_of(records: list[RunRecord]) -> Table:
    return score_table("table2", select(records), load_published("table2"))


def section_of(records: list[RunRecord]) -> Section:
    (section,) = table_of(records).sections
    return section


def entry(section: Section, row: str, column: str) -> Entry:
    (line,) = (line for line in section.lines if line.label == row)
    return line.entries[[one.title for one in section.columns].index(column)]


def test_the_papers_rows_and_columns_come_first_and_are_kept(make_record: MakeRecord) -> None:
    section = section_of([make_record("task=wic"), make_record("task=rte", "method=bitfit"), make_record("rank=3")])
    assert [line.label for line in section.lines] == [*PAPER_ROWS, "BitFit", "ROSA (r=3)"]
    assert [column.title for column in section.columns] == ["Trainable", *PAPER_COLUMNS, "WiC"]
    assert [column.paper for column in section.columns] == [True] * 9 + [False]


def test_under_fair_the_papers_rosa_and_ours_have_a_row_each(make_record: MakeRecord) -> None:
    """By default ROSA never resamples there, and the paper's figures are those of a ROSA that does."""
    every = {"method.resample_every": [2, 0]}
    table = table_of(
        [
            make_record("task=cola", "protocol=fair", dev=0.2),
            make_record("task=cola", "protocol=fair", "method.resample_every=2", dev=0.3, deviations=every),
        ]
    )
    [section] = table.sections
    theirs, ours = (entry(section, row, "CoLA") for row in ("ROSA (r=8, resample_every=2)", "ROSA (r=8)"))
    assert [(one.mean, one.paper) for one in (theirs, ours)] == [("30.0", "64.80"), ("20.0", None)]
    assert any("the paper's ROSA has method.resample_every=2," in text for text in table.intro)


@pytest.mark.parametrize("rows", [24, 10**6], ids=["few", "more than the official ones"])
@pytest.mark.parametrize("official", [True, None], ids=["official", "older record"])
def test_custom_rows_are_kept_apart_and_have_no_paper_figures(
    make_record: MakeRecord, rows: int, official: bool | None
) -> None:
    counts = {"train": rows, "held_out": 0, "validation": rows}
    custom = {"official": False, "rows": counts, "source": "files sha256:1", "fingerprint": "custom"}
    known = {"official": official, "source": "files sha256:2", "fingerprint": "known"}
    records = [
        make_record("task=cola", "method=lora", "seed=1", dev=0.9, data=custom),
        make_record("task=cola", "method=lora", dev=0.5, data=known, deviations={"epochs": [1, 10]}),
    ]
    ours, theirs = table_of(records).sections
    assert entry(ours, "LoRA (r=8)", "CoLA") == Entry(mean="50.0", count=1, paper="54.27")
    assert "custom" not in ours.heading
    assert theirs.heading.endswith(", rows=custom")
    assert "rows=custom (protocol: published)" in theirs.header["Changed"]
    assert "Paper" not in theirs.header
    assert [line.label for line in theirs.lines] == ["LoRA (r=8)"]
    assert entry(theirs, "LoRA (r=8)", "CoLA") == Entry(mean="90.0", count=1)
    assert theirs.notes == ["1 CoLA: custom rows, not the published ones"]
    tidy = [row for row in table_of(records).tidy if row["task"] == "cola"]
    assert {row["paper_x100"] for row in tidy if "custom" in row["deviations"]} == {""}


def test_official_rows_share_a_table_with_those_of_older_records(make_record: MakeRecord) -> None:
    new = make_record("task=cola", "method=lora", "seed=1", data={"official": True})
    assert entry(section_of([new, make_record("task=cola", "method=lora")]), "LoRA (r=8)", "CoLA").count == 2


def test_nearest_to_protocol_comes_first_then_the_model_with_the_most_runs(over_seeds: OverSeeds) -> None:
    short: dict[str, Any] = {"deviations": {"epochs": [1, 10]}}
    records = [
        *over_seeds([0.5], "model=minilm"),
        *over_seeds([0.5] * 9, "model=minilm", "epochs=1", **short),
        *over_seeds([0.5], "model=mpnet_base", "protocol=fair"),
        *over_seeds([0.5], "model=mpnet_base", "protocol=paper"),
    ]
    assert [section.heading for section in table_of(records).sections] == [
        "MPNet-base, protocol fair, cuda bfloat16",
        "MPNet-base, protocol paper, cuda bfloat16",
        "MiniLM-L6, protocol paper, cuda bfloat16",
        "MiniLM-L6, protocol paper, cuda bfloat16, epochs=1",
    ]


def test_our_scores_are_next_to_the_papers(over_seeds: OverSeeds) -> None:
    section = section_of(over_seeds([0.53, 0.54, 0.558], "task=cola", "method=lora"))
    expected = Entry(mean="54.3", spread="1.4", count=3, paper="54.27")
    assert entry(section, "LoRA (r=8)", "CoLA") == expected
    assert entry(section, "LoRA (r=8)", "Trainable") == Entry(mean="627 k", paper="0.6 M")
    assert entry(section, "FT", "MNLI") == Entry(paper="86.296")


def test_a_score_may_be_missing_on_either_side(make_record: MakeRecord) -> None:
    section = section_of([make_record("task=cola", "method=bitfit", dev=-0.0001)])
    assert entry(section, "BitFit", "CoLA") == Entry(mean="0.0", count=1)
    assert entry(section, "BitFit", "RTE") == Entry()


def test_without_the_papers_tasks_there_are_no_paper_figures(make_record: MakeRecord) -> None:
    section = section_of([make_record("task=grammar", "rank=1"), make_record("task=grammar", "method=ft")])
    assert [column.title for column in section.columns] == ["Trainable", "Grammar (synthetic)"]
    assert [line.label for line in section.lines] == ["FT", "ROSA (r=1)"]
    assert not any(column.paper for column in section.columns)
    assert not any(one.paper for line in section.lines for one in line.entries)
    assert "Paper" not in section.header
    assert section.notes == ["1 Grammar (synthetic): synthetic, made by a program"]


def test_a_table_without_paper_figures_does_not_speak_of_the_paper(make_record: MakeRecord) -> None:
    own, beside = table_of([make_record("task=grammar")]), table_of([make_record("task=cola")])
    said = [" ".join([table.title, *table.intro, table.legend]) for table in (own, beside)]
    assert [("paper" in text, "Table 2" in text) for text in said] == [(False, False), (True, True)]


def test_another_number_of_epochs_gets_its_own_section(make_record: MakeRecord) -> None:
    records = [make_record(f"seed={seed}", deviations={"epochs": [epochs, 10]}) for seed in (0, 1) for epochs in (3, 5)]
    table = table_of([*records, make_record()])
    assert [section.header["Changed"] for section in table.sections] == [
        "nothing",
        "epochs=3 (protocol: 10)",
        "epochs=5 (protocol: 10)",
    ]
    assert [row["setting"] for row in table.tidy] == ["1", "2", "3"]


def test_the_papers_tasks_come_before_others(make_record: MakeRecord) -> None:
    table = table_of([make_record("task=grammar"), make_record("task=cola", deviations={"epochs": [3, 10]})])
    assert [section.columns[-1].title for section in table.sections] == ["BoolQ", "Grammar (synthetic)"]


def test_a_subset_is_noted(make_record: MakeRecord) -> None:
    rows = {"train": 49_000, "held_out": 1000, "validation": 9815}
    section = section_of([make_record("task=mnli", held_out=0.5, data={"subset": True, "rows": rows})])
    (column,) = (column for column in section.columns if column.title == "MNLI")
    assert column.note == 1
    assert section.notes == ["1 MNLI: a subset, 50,000 of 392,702 official train rows"]
    assert "MNLI 49,000 + 1,000 / 9,815" in section.header["Rows"]


def test_a_subset_of_train_and_dev_has_one_note(make_record: MakeRecord) -> None:
    rows = {"train": 100, "held_out": 0, "validation": 50}
    section = section_of([make_record("task=grammar", data={"subset": True, "rows": rows})])
    expected = "synthetic, made by a program; a subset, 100 of 4,000 official train rows, 50 of 1,000 official dev rows"
    assert section.notes == [f"1 Grammar (synthetic): {expected}"]


def test_a_learning_rate_not_compared_is_marked_only_if_it_is_ahead(over_seeds: OverSeeds) -> None:
    some = [*over_seeds([0.5, 0.5], "method=ft", "lr=1e-5"), *over_seeds([0.5], "method=ft", "lr=2e-2")]
    section = section_of([*some, *over_seeds([0.5, 0.5], "method=lora")])
    assert entry(section, "FT", "CoLA").mark == "‡"  # the lr that was not compared was tried
    assert entry(section, "LoRA (r=8)", "CoLA").mark == "‡"
    assert section.notes == [OPEN_ENDED]
    better = section_of([*some[:2], *over_seeds([0.6], "method=ft", "lr=2e-2")])
    unsettled = (
        "§ these other learning rates may be better; they are ahead on shared seeds or over all: FT 0.02 on CoLA"
    )
    assert better.notes == [OPEN_ENDED, unsettled]
    assert entry(better, "FT", "CoLA").mark == "‡§"


def test_a_mark_that_all_cells_of_a_row_need_is_at_its_name(over_seeds: OverSeeds) -> None:
    def section(*tasks: str) -> Section:
        lora = [run for task in tasks for run in over_seeds([0.5], f"task={task}", "method=lora")]
        ft = [run for lr in (1e-5, 1e-4) for run in over_seeds([0.5], "task=rte", "method=ft", f"lr={lr}")]
        return section_of([*lora, *ft])

    both = section("cola", "rte")
    assert {line.label: line.title for line in both.lines}["LoRA (r=8)"] == "LoRA (r=8)‡"
    assert {entry(both, "LoRA (r=8)", task).mark for task in ("CoLA", "RTE")} == {""}
    assert both.notes == [f"{OPEN_ENDED}; after the name of a row: in all its cells"]
    one = section("cola")
    assert {line.label: line.title for line in one.lines}["LoRA (r=8)"] == "LoRA (r=8)"
    assert entry(one, "LoRA (r=8)", "CoLA").mark == "‡"


def test_collapsed_runs_are_counted_beside_the_score(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.5, 0.5, 0.1], "method=lora")
    for run in runs:
        run.last["spread"] = 0.0 if run.settings.seed == 2 else 0.9
    table = table_of([*runs, *over_seeds([0.5, 0.6], "method=ft")])
    assert entry(table.sections[0], "LoRA (r=8)", "CoLA").collapsed == 1
    assert [(row["method"], row["collapsed"], row["seeds"]) for row in table.tidy] == [
        ("ft", "", "2"), ("lora", "1", "3")
    ]  # fmt: skip


def test_a_cell_with_collapsed_runs_says_what_each_seeds_own_choice_would_give(over_seeds: OverSeeds) -> None:
    """By the median 1e-3 wins; seed 2, which collapsed there, would choose 1e-4 itself."""
    runs = [*over_seeds([0.6, 0.6, 0.0], "method=lora", "lr=1e-3"), *over_seeds([0.5] * 3, "method=lora", "lr=1e-4")]
    for run in runs:
        run.last["spread"] = float(run.score > 0)
    section = section_of(runs)
    assert entry(section, "LoRA (r=8)", "CoLA").mean == "40.0"
    expected = "if each seed chose its own learning rate, these means would be LoRA (r=8) 56.7 (3) on CoLA"
    assert f"collapsed: {expected}" in section.notes


def test_runs_of_a_modified_tree_are_counted(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.5, 0.5, 0.5], "method=lora")
    for run, dirty in zip(runs, (True, False, None), strict=True):
        run.git.dirty = dirty
    assert section_of(runs).notes == ["modified code: 1 of 3 runs, whose working tree had uncommitted changes"]
    assert section_of(runs[1:]).notes == []


def test_a_chosen_lr_at_an_end_is_marked_and_noted(over_seeds: OverSeeds) -> None:
    def ft(scores: dict[str, float]) -> list[RunRecord]:
        return [run for lr, score in scores.items() for run in over_seeds([score], "method=ft", f"lr={lr}")]

    inside = section_of(ft({"1e-5": 0.1, "1e-4": 0.3, "1e-3": 0.2}))
    assert (entry(inside, "FT", "CoLA").mark, inside.notes) == ("", [])
    end = section_of(ft({"1e-5": 0.1, "1e-4": 0.2, "1e-3": 0.3}))
    assert entry(end, "FT", "CoLA").mark == "‡"
    assert end.notes == [OPEN_ENDED]


def test_a_learning_rate_at_which_a_run_failed_is_noted(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    runs = [run for lr, score in ((1e-4, 0.2), (1e-3, 0.3)) for run in over_seeds([score], "method=ft", f"lr={lr}")]
    section = section_of([*runs, make_record("method=ft", "lr=1e-2", status="failed", scores={})])
    assert entry(section, "FT", "CoLA").mark == "¶"
    assert section.notes == ["¶ learning rates at which a run failed and has no score: FT 0.01 on CoLA"]


def test_a_cell_with_one_lr_is_marked_if_others_had_several(over_seeds: OverSeeds) -> None:
    tuned = [run for lr in (1e-5, 1e-4, 1e-3) for run in over_seeds([0.5], "method=ft", f"lr={lr}")]
    lora = over_seeds([0.5], "method=lora")
    assert entry(section_of(lora), "LoRA (r=8)", "CoLA").mark == ""
    beside = section_of([*tuned, *lora])
    assert entry(beside, "LoRA (r=8)", "CoLA").mark == "‡"
    assert beside.notes[-1] == OPEN_ENDED


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ({"held_out": 0.5}, "epoch (one learning rate was tried) by rows held out of train"),
        ({}, "epoch (one learning rate was tried) by dev itself, as in the paper"),
    ],
)
def test_the_header_says_how_selection_was_done(make_record: MakeRecord, make: dict[str, Any], expected: str) -> None:
    assert section_of([make_record(**make)]).header["Selection"].startswith(expected)


def test_the_header_says_if_cells_were_tuned_unequally(make_record: MakeRecord) -> None:
    records = [make_record("method=ft", f"lr={lr}") for lr in (1e-5, 1e-4)]
    alike, unlike = section_of(records), section_of([*records, make_record("method=lora")])
    assert alike.header["Selection"].startswith("epoch and the best of 2 learning rates by dev")
    assert "1 to 2 learning rates (not the same number in every cell)" in unlike.header["Selection"]
    fewer_seeds = section_of([*records, make_record("method=ft", "lr=1e-5", "seed=1")])
    assert fewer_seeds.header["Selection"].startswith("epoch and the best of 2 learning rates by dev")


def test_the_header_names_the_stand_in(make_record: MakeRecord) -> None:
    header = section_of([make_record("task=cola", "model=mpnet_base")]).header
    assert "not RoBERTa-base" in header["Model"]
    assert header["Paper"] == "arXiv 2407.07802, Table 2: RoBERTa-base, single runs"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"source": "hub", "id": "a/b", "revision": "main", "commit": None}, "hub a/b (main)"),
        ({"source": "hub", "id": "a/b", "revision": "main", "commit": "0123456789abcdef"}, "hub a/b (0123456789ab)"),
        ({"source": "wheel", "requirements": ["a==1"], "sha256": ["0"], "commit": None}, "wheel a==1"),
        ({"source": "wheel", "requirements": ["a==1", "b==1", "c==1"], "sha256": []}, "wheel a==1 and 2 more"),
        ({"source": "path", "sha256": "0123456789abcdef", "commit": None}, "path sha256 0123456789ab"),
        ({"source": "random", "config": {}, "commit": None}, "a random draw"),
    ],
)
def test_the_header_names_the_weights(make_record: MakeRecord, weights: dict[str, Any], expected: str) -> None:
    assert section_of([make_record(model=weights)]).header["Model"].endswith(f"; weights from {expected}")


def test_trainable_parameters_that_differ_by_task_show_as_a_range(make_record: MakeRecord) -> None:
    section = section_of([make_record("task=stsb", trainable=1_100), make_record("task=mnli", trainable=1_300)])
    assert entry(section, "ROSA (r=8)", "Trainable").mean == "1.10 k–1.30 k"


def test_the_header_says_how_much_each_variant_was_tuned_if_it_differs(over_seeds: OverSeeds) -> None:
    runs = [
        run for lr in (1, 2) for name in ("lora", "rosa") for run in over_seeds([0.5] * 3, f"lr={lr}", f"method={name}")
    ]
    assert "Tuning" not in section_of(runs).header
    more = [*over_seeds([0.5], "method=rosa", "lr=3"), *over_seeds([0.5], "method=ft")]
    assert section_of([*runs, *more]).header["Tuning"].endswith(": 1 for FT; 6 for LoRA (r=8); 7 for ROSA (r=8)")
    other = over_seeds([0.5, 0.5], "method=ft", "task=rte")
    assert (
        section_of([*runs, *more, *other])
        .header["Tuning"]
        .endswith(": 1 to 2 for FT; 6 for LoRA (r=8); 7 for ROSA (r=8)")
    )


@pytest.mark.parametrize(
    ("lora", "rosa", "expected"),
    [
        # Differences 0.1, 0.2, 0.3: half of the interval is 4.3027 x 0.1 / sqrt(3)
        ([0.4, 0.3, 0.2], [0.5, 0.5, 0.5], ("+20.0 [-4.8, +44.8]", "0.07", "3", "within noise")),
        ([0.5, 0.5, 0.5], [0.1, 0.11, 0.12], ("-39.0 [-41.5, -36.5]", "<0.001", "3", "below LoRA")),
        ([0.5, 0.6], [0.7, 0.8], ("+20.0 [+20.0, +20.0]", None, "2", "not known")),  # zero variance
        ([0.0, 0.0], [0.0, 0.0], ("+0.0 [+0.0, +0.0]", None, "2", "within noise")),
        ([0.1], [0.9, 0.9], ("+80.0", None, "1", "not known")),
        ([0.1], [0.1], ("+0.0", None, "1", "not known")),
    ],
)
def test_a_row_is_compared_with_lora_seed_by_seed(
    over_seeds: OverSeeds, lora: list[float], rosa: list[float], expected: tuple
) -> None:
    (one,) = section_of([*over_seeds(lora, "method=lora"), *over_seeds(rosa, "method=rosa")]).contrasts
    assert (one.label, one.column) == ("ROSA (r=8)", "CoLA")
    assert (one.difference, one.p, one.count, one.verdict) == expected


def test_the_comparisons_of_a_section_are_one_family(over_seeds: OverSeeds) -> None:
    scores = {"cola": [0.52, 0.53, 0.54], "rte": [0.53, 0.53, 0.56], "mrpc": [0.9, 0.91, 0.92]}
    runs = [
        run
        for task, dev in scores.items()
        for run in [*over_seeds([0.5] * 3, f"task={task}", "method=lora"), *over_seeds(dev, f"task={task}")]
    ]
    section = section_of(runs)
    found = {one.column: (one.p, one.verdict) for one in section.contrasts}
    p = {task: ttest_1samp(np.subtract(dev, 0.5), 0).pvalue for task, dev in scores.items()}
    assert 0.025 < p["cola"] < 0.05 < p["rte"]
    assert found == {
        "MRPC": (probability(3 * p["mrpc"]), "above LoRA"),
        "CoLA": (probability(2 * p["cola"]), "uncorrected"),
        "RTE": (probability(2 * p["cola"]), "within noise"),  # never below that of a smaller p
    }
    assert section.contrast_heading.endswith("is over 3 tests")


def test_only_equal_ranks_settings_and_tasks_are_compared(over_seeds: OverSeeds) -> None:
    linear = {"method.targets": ["all-linear", "attention"]}
    apart = section_of(
        [
            *over_seeds([0.5], "method=lora", "rank=8"),
            *over_seeds([0.5], "method=rosa", "rank=2"),
            *over_seeds([0.5], "method=ft"),
            *over_seeds([0.5], "method=rosa", "task=rte"),
            *over_seeds([0.5], "method=rosa", deviations=linear),
        ]
    )
    assert apart.contrasts == []
    alike = section_of(
        [
            *over_seeds([0.5], "method=rosa", deviations=linear),
            *over_seeds([0.5], "method=lora", deviations=linear),
            *over_seeds([0.2], "method=lora"),
            *over_seeds([0.5], "method=rosa", deviations={"method.select": ["top", "random"]}),
            *over_seeds([0.4], "method=lora", deviations={"method.alpha": [16, 8]}),
        ]
    )
    assert [(one.label, one.difference) for one in alike.contrasts] == [
        ("LoRA (r=8, alpha=16)", "+20.0"),
        ("ROSA (r=8, select=top)", "+30.0"),
        ("ROSA (r=8, targets=all-linear)", "+0.0"),
    ]


def cells(scores: dict[str, list[float]], over_seeds: OverSeeds) -> dict[Variant, Cell]:
    runs = {method: over_seeds(dev, f"method={method}") for method, dev in scores.items()}
    return {variant_of(some[0]): choose(some) for some in runs.values()}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"ft": [0.8, 0.82], "lora": [0.5, 0.52]}, "ft"),
        ({"ft": [0.8, 0.82], "lora": [0.5, 0.52], "rosa": [0.6, 0.6]}, "ft"),
        ({"ft": [0.5, 0.7], "lora": [0.5, 0.52]}, None),  # ahead, but its seeds vary too much
        ({"ft": [0.8, 0.82], "lora": [0.5, 0.52], "rosa": [0.80, 0.81]}, None),  # ahead of one but not of the other
        ({"ft": [0.8], "lora": [0.5, 0.52]}, None),  # one seed has no standard deviation
        ({"ft": [0.8, 0.82], "lora": [0.5]}, None),
        ({"ft": [0.8, 0.82]}, None),  # no other row to beat
        ({"ft": [0.8, 0.8], "lora": [0.8, 0.8]}, None),
        ({"ft": [0.8, 0.8], "lora": [0.7, 0.7]}, "ft"),
    ],
)
def test_only_a_lead_beyond_noise_is_marked(
    over_seeds: OverSeeds, scores: dict[str, list[float]], expected: str | None
) -> None:
    best = leader(cells(scores, over_seeds))
    assert (best and best.method) == expected
    section = section_of([run for method, dev in scores.items() for run in over_seeds(dev, f"method={method}")])
    assert [one.best for line in section.lines for one in line.entries].count(True) == (expected is not None)


@pytest.mark.parametrize(("high", "marked"), [([0.52, 0.54, 0.56], True), ([0.51, 0.53, 0.55], False)])
def test_a_lead_counts_at_the_five_percent_level(over_seeds: OverSeeds, high: list[float], marked: bool) -> None:
    """Welch's t by hand: means 0.04 (0.03) apart, variances 4e-4 and 1e-4 over three seeds each: t = 3.10 (2.32).

    Welch's degrees of freedom are 2.94, for which the one-sided 5 % critical value in a t-table is 2.37.
    """
    low = [0.49, 0.50, 0.51]
    assert (leader(cells({"ft": high, "lora": low}, over_seeds)) is not None) == marked
