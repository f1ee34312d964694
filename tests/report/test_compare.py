"""The effect of one setting, checked against SciPy on the scores, and which runs are included."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import sem, ttest_1samp, ttest_ind

from rosa_bench.config.groups import kinds
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.report.cells.differences import FEW_SEEDS_NOTE, noncentrality
from rosa_bench.report.cells.selection.reported import reporting
from rosa_bench.report.compare import compare
from rosa_bench.report.comparison import ABSENT, comparison, typed, value_of
from rosa_bench.report.tables.building.table import Section
from rosa_bench.system.errors import UserError

MakeRecord = Callable[..., RunRecord]
OverSeeds = Callable[..., list[RunRecord]]
NEVER = {"method.resample_every": [0, 2.0]}
TIMED = {"pad_to_max": [True, False]}  # for Table 1's times, not for scores


def sections(arguments: str, runs: Sequence[RunRecord]) -> list[Section]:
    return compare(comparison(arguments.split()), runs).sections


def figures(section: Section) -> dict[str, dict[str, str | None]]:
    """Texts of a section's cells, by row and column."""
    titles = [column.title for column in section.columns]
    return {
        line.label: dict(zip(titles, (entry.mean for entry in line.entries), strict=True)) for line in section.lines
    }


def asked_and_chosen(section: Section) -> dict[str, str]:
    return {name: text for name, text in section.header.items() if name not in ("Model", "Device")}


def signed(fraction: float) -> str:
    return f"{100 * fraction:+z.1f}"


def by_scipy(differences: np.ndarray) -> str:
    found = ttest_1samp(differences, 0).confidence_interval()
    return f"{signed(float(differences.mean()))} [{signed(found.low)}, {signed(found.high)}] ({len(differences)})"


def by_welch(one: np.ndarray, other: np.ndarray) -> str:
    """Half the mean difference of two samples, with its interval, as text."""
    ends = ttest_ind(one, other, equal_var=False).confidence_interval()
    mean = float(one.mean() - other.mean())
    return f"{signed(mean / 2)} [{signed(ends.low / 2)}, {signed(ends.high / 2)}] ({len(other)} to {len(one)})"


def detectable(one: np.ndarray, other: np.ndarray) -> str:
    df = ttest_ind(one, other, equal_var=False).df
    return f"{100 * noncentrality(df) * np.hypot(sem(one), sem(other)) / 2:.1f}"


@pytest.fixture
def never(over_seeds: OverSeeds) -> OverSeeds:
    """``never([0.5], "task=rte")``: runs of ROSA that never resample."""
    return lambda dev, *more: over_seeds(dev, "method=rosa", "method.resample_every=0", *more, deviations=NEVER)


def test_each_value_minus_the_last_by_task_and_over_all_tasks(over_seeds: OverSeeds, never: OverSeeds) -> None:
    every_2 = {"cola": [0.5, 0.62, 0.55], "rte": [0.7, 0.71]}
    kept = {"cola": [0.6, 0.61, 0.52], "rte": [0.65, 0.75]}
    runs = [
        *(run for task, dev in every_2.items() for run in over_seeds(dev, "method=rosa", f"task={task}")),
        *(run for task, dev in kept.items() for run in never(dev, f"task={task}")),
    ]
    less = {task: np.subtract(every_2[task], kept[task]) for task in kept}
    [section] = sections("method.resample_every=2,0", runs)
    assert section.head == "method.resample_every"
    assert figures(section) == {
        "2 minus 0": {
            "CoLA": by_scipy(less["cola"]),
            "RTE": by_scipy(less["rte"]),
            # Half the difference of CoLA and minus RTE, whose seeds are independent: Welch's test.
            "all": by_welch(less["cola"], -less["rte"]),
            "detectable": detectable(less["cola"], -less["rte"]),
        }
    }
    [turned] = sections("method.resample_every=0,2 task=cola", runs)
    assert figures(turned) == {
        "0 minus 2": {
            "CoLA": by_scipy(-less["cola"]),
            "detectable": f"{100 * noncentrality(2) * sem(less['cola']):.1f}",
        }
    }


def test_a_difference_is_marked_if_it_survives_holm(over_seeds: OverSeeds) -> None:
    lora = over_seeds([0.5, 0.5, 0.5], "method=lora")
    for rosa, strong in (([0.6, 0.61, 0.62], True), ([0.6, 0.4, 0.62], False), ([0.6], False)):
        [section] = sections("method=rosa,lora", [*lora, *over_seeds(rosa, "method=rosa")])
        one = section.lines[0].entries[0]
        assert one.best is strong
        assert str(one.mean).endswith("*") is strong


def test_a_mark_is_that_of_its_own_section(over_seeds: OverSeeds) -> None:
    rosa = {"rank=2": [0.6, 0.4, 0.62], "rank=8": [0.6, 0.61, 0.62]}
    runs = [run for rank, dev in rosa.items() for run in over_seeds(dev, "method=rosa", rank)]
    runs += [run for rank in rosa for run in over_seeds([0.5] * 3, "method=lora", rank)]
    assert [one.lines[0].entries[0].best for one in sections("method=rosa,lora", runs)] == [False, True]


@pytest.mark.parametrize(
    ("rosa", "noted"),
    [
        ([0.6, 0.61, 0.62], True),
        ([0.6, 0.61, 0.62, 0.6, 0.61], False),  # enough seeds
        ([0.6, 0.4, 0.62], False),  # no star
    ],
)
def test_a_star_over_tasks_with_few_seeds_has_a_note(over_seeds: OverSeeds, rosa: list[float], noted: bool) -> None:
    runs = [
        run
        for task in ("task=cola", "task=rte")
        for method, dev in {"method=rosa": rosa, "method=lora": [0.5] * len(rosa)}.items()
        for run in over_seeds(dev, method, task)
    ]
    [section] = sections("method=rosa,lora", runs)
    assert (FEW_SEEDS_NOTE in section.notes) is noted
    [alone] = sections("method=rosa,lora task=cola", runs)
    assert FEW_SEEDS_NOTE not in alone.notes  # one task: Student's test is exact


def test_the_family_is_every_difference_of_the_command(over_seeds: OverSeeds) -> None:
    """A p of 0.037 is significant alone. The same difference on a second task and their mean make a family of three."""
    some = {"method=rosa": [0.52, 0.53, 0.54], "method=lora": [0.5, 0.5, 0.5]}
    one = [run for method, dev in some.items() for run in over_seeds(dev, method, "task=cola")]
    again = [run for method, dev in some.items() for run in over_seeds(dev, method, "task=rte")]
    other_place = [run for method, dev in some.items() for run in over_seeds(dev, method, "task=cola", "rank=2")]

    def marked(runs: Sequence[RunRecord]) -> list[str]:
        found = compare(comparison(["method=rosa,lora"]), runs)
        counted = re.search(r"over all (\d+) differences tested here|(one) difference is tested here", found.how)
        assert counted
        return [
            counted[1] or counted[2],
            *(str(entry.best) for section in found.sections for entry in section.lines[0].entries),
        ]

    assert marked(one) == ["one", "True", "False"]  # the last is the column of detectable differences
    assert marked([*one, *other_place]) == ["2", "False", "False", "False", "False"]
    assert marked([*one, *again]) == [
        "3",
        "False",
        "False",
        "True",
        "False",
    ]  # twice the seeds: p is 0.001 for the mean


def test_an_overall_difference_of_one_task_is_not_counted_twice(over_seeds: OverSeeds) -> None:
    runs = [*over_seeds([0.5, 0.6], "method=lora"), *over_seeds([0.5, 0.7], "method=ft")]
    runs += over_seeds([0.5, 0.7], "method=bitfit") + over_seeds([0.5], "task=rte", "method=lora")
    runs += over_seeds([0.5], "task=rte", "method=ft")
    assert "over all 2 differences" in compare(comparison(["method=ft,bitfit,lora"]), runs).how  # one seed is no test


def test_collapsed_runs_are_counted_on_both_sides(over_seeds: OverSeeds) -> None:
    rosa, lora = over_seeds([0.5, 0.6, 0.0], "method=rosa"), over_seeds([0.5, 0.5, 0.5, 0.0], "method=lora")
    for run in [*rosa, *lora]:
        run.last["spread"] = float(run.score > 0)
    [section] = sections("method=rosa,lora", [*rosa, *lora])
    shown = figures(section)["rosa minus lora"]["CoLA"]
    assert str(shown).endswith("(3; collapsed 1/0)")  # LoRA's fourth seed is not in the difference


@pytest.mark.parametrize(
    ("rule", "expected", "chosen"),
    [
        ("median", "-10.0", "0.001 on CoLA‡"),  # (0.6 + 0 + 0.6) / 3 minus 0.5
        ("mean", "+0.0", "0.0001 on CoLA‡"),
        ("seed", "+6.7", "0.0001 (1 of 3), 0.001 (2 of 3) on CoLA‡"),
    ],
)
def test_learning_rates_are_chosen_by_the_given_rule(
    over_seeds: OverSeeds, rule: str, expected: str, chosen: str
) -> None:
    runs = [*over_seeds([0.6, 0.0, 0.6], "lr=1e-3"), *over_seeds([0.5, 0.5, 0.5], "lr=1e-4")]
    runs += over_seeds([0.5, 0.5, 0.5], "method=lora")
    [section] = compare(comparison(["method=rosa,lora"]), runs, rule=rule).sections
    assert str(figures(section)["rosa minus lora"]["CoLA"]).startswith(expected)
    assert section.header["lr of rosa"] == chosen


def test_a_row_without_some_of_the_tasks_says_so(over_seeds: OverSeeds) -> None:
    runs = [
        run
        for method, tasks in {"ft": ("cola", "rte"), "bitfit": ("cola",), "lora": ("cola", "rte")}.items()
        for task in tasks
        for run in over_seeds([0.5], f"method={method}", f"task={task}")
    ]
    [section] = sections("method=ft,bitfit,ia3,lora", [*runs, *over_seeds([0.5], "method=ia3", "task=mrpc")])
    assert figures(section) == {
        "ft minus lora": {"CoLA": "+0.0 (1)", "RTE": "+0.0 (1)", "all": "+0.0 (1)"},
        "bitfit minus lora": {"CoLA": "+0.0 (1)", "RTE": None, "all": "+0.0 (1, 1 of 2 tasks)"},
    }


def test_ranks_models_and_protocols_have_their_own_sections(over_seeds: OverSeeds) -> None:
    ft = over_seeds([0.9], "method=ft")
    lora = [run for rank, dev in ((2, 0.5), (8, 0.6)) for run in over_seeds([dev], "method=lora", f"rank={rank}")]
    others = [
        run
        for setting in ("protocol=fair", "model=minilm")
        for method, dev in (("ft", 0.7), ("lora", 0.8))
        for run in over_seeds([dev], setting, f"method={method}")
    ]
    found = sections("method=ft,lora", [*ft, *lora, *others])
    assert {section.heading: figures(section)["ft minus lora"]["CoLA"] for section in found} == {
        "MiniLM-L6, protocol paper, cuda bfloat16, r=8": "-10.0 (1)",
        "RoBERTa-base, protocol fair, cuda bfloat16, r=8": "-10.0 (1)",
        "RoBERTa-base, protocol paper, cuda bfloat16, r=2": "+40.0 (1)",
        "RoBERTa-base, protocol paper, cuda bfloat16, r=8": "+30.0 (1)",
    }
    [one] = sections("method=ft,lora rank=2 model=roberta_base protocol=paper,fair", [*ft, *lora, *others])
    assert one.heading == "RoBERTa-base, protocol paper, cuda bfloat16, r=2"
    [ranks] = sections("rank=2,8 method=lora model=roberta_base", [*ft, *lora, *others])
    assert (ranks.heading, figures(ranks)) == (
        "RoBERTa-base, protocol paper, cuda bfloat16", {"2 minus 8": {"CoLA": "-10.0 (1)"}}
    )  # fmt: skip


def test_settings_with_equally_many_values_change_together(over_seeds: OverSeeds) -> None:
    kaiming = over_seeds([0.7], "method=lora", "method.init=kaiming", deviations={"method.init": ["kaiming", "normal"]})
    runs = [
        *over_seeds([0.5], "method=rosa"),
        *over_seeds([0.6], "method=lora"),
        *kaiming,
        *over_seeds([0.9], "method=ft"),
    ]
    [section] = sections("method=rosa,ft,lora method.init=svd,svd,kaiming", runs)
    assert section.head == "method, method.init"
    assert figures(section) == {
        "rosa, svd minus lora, kaiming": {"CoLA": "-20.0 (1)"},
        "ft, svd minus lora, kaiming": {"CoLA": "+20.0 (1)"},  # FT has no such setting, so it always matches
    }
    ranks = [*over_seeds([0.5], "method=rosa", "rank=4"), *over_seeds([0.6], "method=lora", "rank=2")]
    [section] = sections("method=rosa,lora rank=4,2", ranks)
    assert figures(section) == {"rosa, 4 minus lora, 2": {"CoLA": "-10.0 (1)"}}


def test_tasks_with_the_same_title_keep_their_own_learning_rates(over_seeds: OverSeeds) -> None:
    runs = []
    for task, lr in (("cola", "2e-3"), ("rte", "6e-4")):
        for method in ("rosa", "lora"):
            for run in over_seeds([0.5, 0.6], f"task={task}", f"method={method}", f"lr={lr}"):
                values = to_values(run)
                config = {**values["config"], "task": {**values["config"]["task"], "title": "Mine"}}
                runs.append(from_values({**values, "config": config}))
    [section] = compare(comparison(["method=rosa,lora"]), runs).sections
    assert section.header["lr of rosa"] == "0.0006 on Mine; 0.002 on Mine"


def test_learning_rates_are_chosen_as_for_the_tables_or_given(over_seeds: OverSeeds) -> None:
    scores = {("ft", "1e-4"): 0.5, ("ft", "1e-3"): 0.7, ("lora", "1e-4"): 0.6, ("lora", "1e-3"): 0.4}
    runs = [run for (method, lr), dev in scores.items() for run in over_seeds([dev], f"method={method}", f"lr={lr}")]
    [chosen] = sections("method=ft,lora", runs)
    assert figures(chosen) == {"ft minus lora": {"CoLA": "+10.0 (1)"}}
    assert asked_and_chosen(chosen) == {"lr of ft": "0.001 on CoLA‡", "lr of lora": "0.0001 on CoLA‡"}
    [given] = sections("method=ft,lora lr=1e-4", runs)
    assert figures(given) == {"ft minus lora": {"CoLA": "-10.0 (1)"}}
    assert asked_and_chosen(given) == {"Only runs with": "lr=0.0001"}
    [between] = sections("lr=1e-3,1e-4 method=ft", runs)
    assert figures(between) == {"0.001 minus 0.0001": {"CoLA": "+20.0 (1)"}}


def test_a_doubtful_learning_rate_is_marked_as_in_the_tables(over_seeds: OverSeeds, make_record: MakeRecord) -> None:
    lora = [*over_seeds([0.5] * 2, "method=lora", "lr=2e-3"), *over_seeds([0.6], "method=lora", "lr=6e-3")]
    rosa = [*over_seeds([0.5] * 2, "method=rosa", "lr=2e-3"), *over_seeds([0.4] * 2, "method=rosa", "lr=6e-4")]
    failed = make_record("method=rosa", "lr=6e-3", status="failed", scores={})
    title = lora[0].settings.task.title
    for more, mark in (([], "‡"), ([failed], "")):
        [section] = sections("method=rosa,lora", [*rosa, *more, *lora])
        assert section.header["lr of rosa"] == f"0.002 on {title}{mark}"
        assert section.header["lr of lora"] == f"0.002 on {title}‡§"
        at_an_end, unsettled = section.notes
        assert (at_an_end[0], unsettled[0], unsettled[-len(title) - 14 :]) == ("‡", "§", f"lora 0.006 on {title}")
    settled = [*lora, *over_seeds([0.1], "method=lora", "lr=6e-4"), *over_seeds([0.1] * 2, "method=lora", "lr=6e-3")]
    [section] = sections("method=rosa,lora", [*rosa, failed, *settled])
    assert (section.header["lr of lora"], section.notes) == (f"0.002 on {title}", [])
    [given] = sections("method=rosa,lora lr=2e-3", [*rosa, *lora])
    assert given.notes == []


def test_changes_to_a_method_must_be_given_explicitly(over_seeds: OverSeeds, never: OverSeeds) -> None:
    rosa, kept, lora = over_seeds([0.5], "method=rosa"), never([0.9]), over_seeds([0.6], "method=lora")
    for asked, expected in {"": "-10.0", "method.resample_every=0": "+30.0"}.items():
        [section] = sections(f"method=rosa,lora {asked}", [*rosa, *kept, *lora])
        assert figures(section) == {"rosa minus lora": {"CoLA": f"{expected} (1)"}}


def test_changes_that_all_runs_of_a_side_share_need_not_be_given(over_seeds: OverSeeds, never: OverSeeds) -> None:
    kept, lora = never([0.9]), over_seeds([0.6], "method=lora")
    [section] = sections("method=rosa,lora", [*kept, *lora])
    assert figures(section) == {"rosa minus lora": {"CoLA": "+30.0 (1)"}}
    assert section.header["Changed"] == "method.resample_every=0 (protocol: 2)"
    more = over_seeds([0.7], "method=rosa", "method.resample_every=1")
    left = r"excluded because of settings not given: 1 with method.resample_every=0; 1 with method.resample_every=1$"
    with pytest.raises(UserError, match=left):
        sections("method=rosa,lora", [*kept, *more, *lora])
    assert "Changed" not in sections("method=rosa,lora", [*over_seeds([0.5], "method=rosa"), *kept, *lora])[0].header


def test_each_setting_has_its_own_section_nearest_to_the_protocol_first(over_seeds: OverSeeds) -> None:
    short: dict[str, Any] = {"deviations": {"epochs": [1, 10]}}
    runs = [
        *over_seeds([0.2], "method=rosa", "epochs=1", **short),
        *over_seeds([0.1], "method=lora", "epochs=1", **short),
        *over_seeds([0.5], "method=rosa"),
        *over_seeds([0.6], "method=lora"),
        *(run for name in ("rosa", "lora") for run in over_seeds([0.9], f"method={name}", deviations=TIMED)),
    ]
    found = {
        section.heading: figures(section)["rosa minus lora"]["CoLA"] for section in sections("method=rosa,lora", runs)
    }
    heading = "RoBERTa-base, protocol paper, cuda bfloat16"
    assert list(found.items()) == [(f"{heading}, r=8", "-10.0 (1)"), (f"{heading}, epochs=1, r=8", "+10.0 (1)")]
    other = [run for name in ("rosa", "lora") for run in over_seeds([0.5] * 2, f"method={name}", "model=minilm")]
    models = [section.header["Model"].split(" ")[0] for section in sections("method=rosa,lora", [*runs, *other])]
    assert models == ["MiniLM-L6", "RoBERTa-base;", "RoBERTa-base;"]  # the model with the most runs first
    [asked] = sections("method=rosa,lora epochs=1", runs)
    assert figures(asked) == {"rosa minus lora": {"CoLA": "+10.0 (1)"}}
    [between] = sections("epochs=1,10 method=lora", runs)
    assert figures(between) == {"1 minus 10": {"CoLA": "-50.0 (1)"}}


def test_a_change_that_follows_from_the_protocol_need_not_be_given(over_seeds: OverSeeds) -> None:
    trained = {"protocol.train_head": [True, False], "method.train_head": [True, False]}
    runs = [
        *over_seeds([0.5], "method=lora"),
        *over_seeds([0.6], "method=lora", "protocol.train_head=true", deviations=trained),
    ]
    [section] = sections("protocol.train_head=true,false", runs)
    assert figures(section) == {"true minus false": {"CoLA": "+10.0 (1)"}}


def test_a_run_older_than_a_setting_has_the_old_value(over_seeds: OverSeeds) -> None:
    key = "optimizer.schedule"
    changed = {key: ["constant", "linear"]}
    old, new = over_seeds([0.5]), over_seeds([0.6], f"{key}=constant", deviations=changed)
    del old[0].config["optimizer"]["schedule"]
    [section] = sections(f"{key}=constant,linear", [*old, *new])
    assert figures(section) == {"constant minus linear": {"CoLA": "+10.0 (1)"}}


def test_a_run_whose_rank_is_null_joins_every_rank_like_one_without(over_seeds: OverSeeds) -> None:
    lora, rosa = (over_seeds([0.5, 0.6], f"method={name}") for name in ("lora", "rosa"))
    full = over_seeds([0.7, 0.7], "method=ft")
    expected = [figures(section) for section in sections("method=ft,rosa,lora", [*lora, *rosa, *full])]
    for run in full:
        run.config["method"]["rank"] = None
    assert [figures(section) for section in sections("method=ft,rosa,lora", [*lora, *rosa, *full])] == expected


@pytest.mark.parametrize("name", ["/etc/passwd", "../task/phonebook", "*", "", ["adamw"], {"a": 1}, None, 1.5])
def test_a_name_from_a_record_is_never_a_path(over_seeds: OverSeeds, name: Any) -> None:
    [run] = over_seeds([0.5])
    run.config["optimizer"]["name"] = name
    del run.config["optimizer"]["weight_decay"]
    assert value_of(run, "optimizer.weight_decay") is ABSENT
    assert kinds("optimizer", "../task/phonebook") == kinds("optimizer", "unknown")


def test_runs_scored_by_a_loss_and_by_their_texts_have_their_own_sections(
    make_written: MakeRecord, make_referenced: MakeRecord
) -> None:
    """Also where the same score of both is compared: each section is of runs made alike."""
    bleu, losses = {"ft": 0.5, "lora": 0.25}, {"ft": 1.0, "lora": 1.5}
    runs = [make_written([9.0], f"method={method}", "protocol=fair", bleu=score) for method, score in bleu.items()]
    runs += [make_referenced(loss, f"method={method}") for method, loss in losses.items()]
    scored, by_loss = sections("method=ft,lora", runs)
    assert figures(scored) == {"ft minus lora": {"E2E": "+25.0 (1)"}}
    assert figures(by_loss) == {"ft minus lora": {"E2E": "-0.500 (1)"}}
    assert "task.decoding=none, task.score=loss" in by_loss.heading
    written, silent = sections("method=ft,lora", reporting("loss", runs))
    assert figures(written) == {"ft minus lora": {"E2E": "+0.000 (1)"}}  # all written texts have the same loss
    assert figures(silent) == figures(by_loss)


def test_all_differences_of_losses_have_the_decimals_of_the_smallest_loss(make_referenced: MakeRecord) -> None:
    """Which has four digits, however small or large a difference or an end of its interval is."""
    losses = {"ft": (1.25, 1.5), "bitfit": (1.30001, 99.5), "lora": (1.3, 1.4)}
    [section] = sections(
        "method=ft,bitfit,lora",
        [
            make_referenced(loss, f"method={method}", f"seed={seed}")
            for method, some in losses.items()
            for seed, loss in enumerate(some)
        ],
    )
    for line, cells in figures(section).items():
        difference, detectable = cells.values()
        ours, theirs = (np.array(losses[method]) for method in line.split(" minus "))
        ends = ttest_1samp(ours - theirs, 0).confidence_interval()
        assert difference == f"{(ours - theirs).mean():+.3f} [{ends.low:+.3f}, {ends.high:+.3f}] (2)"
        assert detectable == f"{noncentrality(1) * sem(ours - theirs):.3f}"


def test_only_runs_on_the_same_data_are_compared(make_record: MakeRecord) -> None:
    part = {"source": "files", "fingerprint": "part", "rows": {"train": 10, "held_out": 0, "validation": 5}}
    rosa, lora = make_record("method=rosa", dev=0.5), make_record("method=lora", dev=0.3)
    other = make_record("method=lora", dev=0.9, data=part)
    assert figures(sections("method=rosa,lora", [rosa, other, lora])[0]) == {"rosa minus lora": {"CoLA": "+20.0 (1)"}}
    with pytest.raises(UserError, match="differ only in method"):
        sections("method=rosa,lora", [rosa, other])


def test_without_a_shared_seed_on_the_largest_data_the_next_is_compared(make_record: MakeRecord) -> None:
    part = {"source": "files", "fingerprint": "part", "rows": {"train": 10, "held_out": 0, "validation": 5}}
    apart = [make_record("method=rosa", "seed=0", dev=0.9), make_record("method=lora", "seed=1", dev=0.1)]
    small = [make_record(f"method={name}", dev=dev, data=part) for name, dev in (("rosa", 0.5), ("lora", 0.4))]
    [section] = sections("method=rosa,lora", [*apart, *small])
    assert figures(section) == {"rosa minus lora": {"CoLA": "+10.0 (1)"}}


def test_an_interrupted_run_does_not_change_what_a_sides_runs_share(over_seeds: OverSeeds, never: OverSeeds) -> None:
    runs = [*never([0.6, 0.62], "lr=1e-3"), *over_seeds([0.5, 0.51], "method=lora")]
    cut = over_seeds([0.5], "method=rosa", status="interrupted")
    assert figures(sections("method=rosa,lora", [*runs, *cut])[0]) == figures(sections("method=rosa,lora", runs)[0])


def test_stand_ins_subsets_and_devices_are_named(make_record: MakeRecord) -> None:
    part = {"subset": True, "rows": {"train": 100, "held_out": 0, "validation": 1043}}
    h100 = {"type": "cuda", "name": "NVIDIA H100", "precision": "bfloat16"}
    runs = [
        make_record("model=mpnet_base", "method=rosa", data=part),
        make_record("model=mpnet_base", "method=lora", data=part, device=h100),
    ]
    [section] = sections("method=rosa,lora", runs)
    assert "not RoBERTa-base" in section.header["Model"]
    assert section.header["Device"] == "cuda (NVIDIA H100, NVIDIA H200), bfloat16"
    assert section.columns[0].note == 1
    assert section.notes == ["1 CoLA: a subset, 100 of 8,551 official train rows"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "no setting has several values"),
        ("method=rosa task=cola,rte seed=0,1", "no setting has several values"),
        ("method=rosa,rosa", "method=rosa is given more than once; give each side once"),
        ("method=rosa,lora,rosa", "method=rosa is given more than once"),
        ("method=rosa,rosa,lora rank=8,8,8", "method=rosa rank=8 is given more than once"),
        ("method=rosa,lora rank=2,4,8", "need equally many values: method 2, rank 3"),
        ("method=rosa,lara", "no run has method=lara; values found: lora, rosa"),
        ("method=rosa,lora task=col", "no run has task=col; values found: cola"),
        ("metod=rosa,lora", "these runs have no setting metod"),
        ("method.select=top,random", "no run has method.select=top; values found: random"),
        ("method=rosa,lora seed=1", "differ only in method"),
        ("method=rosa,lora rosa", "rosa is not KEY=VALUE"),
    ],
)
def test_mistakes_raise_clear_errors(make_record: MakeRecord, arguments: str, words: str) -> None:
    runs = [make_record("method=rosa"), make_record("method=rosa", "seed=1"), make_record("method=lora")]
    with pytest.raises(UserError, match=words):
        sections(arguments, runs)


def test_values_found_are_in_the_order_of_numbers(make_record: MakeRecord) -> None:
    runs = [make_record("method=rosa", f"rank={rank}") for rank in (16, 2, 4)]
    with pytest.raises(UserError, match=r"no run has rank=3; values found: 2, 4, 16$"):
        sections("method=rosa rank=3,4", runs)


def test_a_setting_that_one_side_never_has_is_given_per_side(over_seeds: OverSeeds) -> None:
    """LoRA has a period too, and in all of its runs it is 0. The message has the argument that works."""
    changed = {"method.resample_every": [10, 0]}
    runs = [*over_seeds([0.5, 0.6], "method=rosa"), *over_seeds([0.4, 0.6], "method=lora")]
    runs += over_seeds([0.3], "method=lora", "method.resample_every=10", deviations=changed)
    runs += over_seeds([0.4, 0.5], "method=ft")  # has no period, so that none restricts it
    with pytest.raises(UserError, match=r"no run with method=lora has .*=2; values found: 0, 10\.") as raised:
        sections("method=rosa,lora,ft method.resample_every=2", runs)
    advice = str(raised.value).rpartition(": ")[2]
    assert advice == "method.resample_every=2,0,2"
    [section] = sections(f"method=rosa,lora,ft {advice}", runs)
    assert [line.label for line in section.lines] == ["rosa, 2 minus ft, 2", "lora, 0 minus ft, 2"]
    [section] = sections("method=rosa,ft method.resample_every=2", runs)
    assert [line.label for line in section.lines] == ["rosa minus ft"]


def test_advice_has_texts_and_none_as_a_user_types_them() -> None:
    assert [typed(value) for value in (2.0, 0.03125, None, True, "a|b")] == ["2", "0.03125", "null", "true", "'a|b'"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("lr=6e-4,2e-3", (6e-4, 2e-3)),
        ("method.targets='a|b',attention", ("a|b", "attention")),
        ("optimizer.betas=[0.9,0.98],[0.9,0.999]", ((0.9, 0.98), (0.9, 0.999))),
        ("limit_train=null,10", (None, 10)),
        ("method.select=choice(top,random)", ("top", "random")),
    ],
)
def test_values_use_hydras_sweep_syntax(argument: str, expected: tuple[object, ...]) -> None:
    assert comparison([argument]).sides == tuple((value,) for value in expected)
