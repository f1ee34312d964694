import shlex
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.next import next_commands

MakeRecord = Callable[..., RunRecord]
FORGOTTEN = {"task": "restaurants", "before": 1.0, "selected": 2.0, "last": 3.0}


def commands(records: list[RunRecord], *, seeds: int = 2, more: Sequence[str] = ()) -> list[list[str]]:
    return [shlex.split(command) for command in next_commands(records, seeds=seeds, more=more)]


@pytest.fixture
def tried(make_record: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``tried({1e-3: [0.5, 0.6]}, "method=lora")``: runs with these dev scores, by learning rate, one per seed."""

    def make(scores: dict[float, list[float]], *overrides: str, **changes: Any) -> list[RunRecord]:
        return [
            make_record(*overrides, f"lr={lr}", f"seed={seed}", dev=score, **changes)
            for lr, each in scores.items()
            for seed, score in enumerate(each)
        ]

    return make


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({2e-4: [0.5], 6e-4: [0.7], 2e-3: [0.6]}, ("0.0006", "1")),  # inside the range: more seeds
        ({2e-4: [0.5], 0.00123456789: [0.7], 2e-3: [0.6]}, ("0.00123456789", "1")),  # with all its digits
        ({2e-4: [0.5] * 2, 6e-4: [0.7] * 2, 2e-3: [0.6] * 2}, None),  # inside the range, with enough seeds
        ({2e-4: [0.5], 6e-4: [0.6], 2e-3: [0.7]}, ("0.006", "0")),  # at the upper end: one lr beyond it
        ({2e-4: [0.7] * 2, 6e-4: [0.6] * 2}, ("6e-05", "0")),  # at the lower end
        ({2e-3: [0.7] * 2}, ("0.0006,0.006", "0")),  # a single lr: one on each side
        ({6e-5: [0.9], 6e-4: [0.5] * 3, 2e-3: [0.6] * 3}, ("6e-05", "1,2")),  # not compared, but ahead: its other seeds
        ({6e-5: [0.1], 6e-4: [0.5] * 3, 2e-3: [0.6] * 3}, ("0.006", "0")),  # not compared, and behind
        ({6e-4: [0.5] * 3, 2e-3: [0.6] * 3, 6e-3: [0.1]}, None),  # one seed beyond it is behind
        ({6e-4: [0.5] * 3, 2e-3: [0.6] * 3, 6e-3: [0.7]}, ("0.006", "1,2")),  # one seed beyond it is ahead
        ({6e-4: [0.5] * 2, 2e-3: [0.6] * 5}, ("0.006", "0")),  # at an end: one of the shared seeds
        ({6e-4: [0.5] * 2, 2e-3: [0.6, 0.6, 0.0, 0.0]}, ("0.0006", "2,3")),  # compared, and ahead over all seeds
        (
            {6e-4: [0.5, 0.5, 0.9, 0.9], 2e-3: [0.6] * 2},
            ("0.002", "2,3"),
        ),  # the same, but the chosen lr lacks the seeds
    ],
)
def test_each_cell_gets_the_runs_it_needs(
    tried: Callable[..., list[RunRecord]], scores: dict[float, list[float]], expected: tuple[str, str] | None
) -> None:
    found = commands(tried(scores, "task=cola", "method=ft"))
    if expected is None:
        assert found == []
    else:
        [command] = found
        assert command[:2] == ["rosa-bench", "-m"]
        assert command[-2:] == [f"lr={expected[0]}", f"seed={expected[1]}"]


def test_failed_learning_rates_are_not_suggested_again(tried: Callable[..., list[RunRecord]]) -> None:
    runs = tried({2e-3: [0.5], 6e-3: [0.6]}, "method=ft")
    [beyond] = tried({2e-2: [0.0]}, "method=ft", status="failed")
    [command] = commands([*runs, beyond])
    assert command[-2:] == ["lr=0.006", "seed=1"]
    assert commands([*runs, beyond], seeds=1) == []
    runner_up = tried({6e-5: [0.9], 6e-4: [0.6] * 2, 2e-3: [0.5] * 2, 2e-4: [0.5] * 2}, "method=ft")
    assert commands(runner_up)[0][-2:] == ["lr=6e-05", "seed=1"]
    assert commands([*runner_up, *tried({6e-5: [0.0] * 2}, "method=ft", status="failed")]) == []
    assert commands([*runs, *tried({2e-2: [0.0]}, "method=lora", status="failed")])[0][-2:] == ["lr=0.02", "seed=0"]


def test_every_cell_has_a_command_with_the_extra_arguments(tried: Callable[..., list[RunRecord]]) -> None:
    both = [run for task in ("cola", "rte") for run in tried({2e-3: [0.5]}, f"task={task}", "method=lora")]
    first, second = commands(both, more=["data_dir=a b"])
    assert {"task=cola", "data_dir=a b"} <= set(first)
    assert {"task=rte", "data_dir=a b"} <= set(second)


def test_timed_runs_need_nothing(make_record: MakeRecord) -> None:
    assert commands([make_record(deviations={"pad_to_max": [True, False]})]) == []


def test_cells_of_different_data_of_ones_own_share_a_command(tried: Callable[..., list[RunRecord]]) -> None:
    some = tried({2e-3: [0.7]}, "task=cola", "method=ft")
    others = tried({2e-3: [0.7]}, "task=cola", "method=ft", data={"official": False, "fingerprint": "b" * 64})
    assert len(select([*some, *others])) == 2
    assert len(commands([*some, *others])) == 1


def test_forgetting_is_measured_again(tried: Callable[..., list[RunRecord]]) -> None:
    runs = tried({2e-3: [0.7]}, "task=cola", "method=ft", forgetting=FORGOTTEN)
    [command] = commands(runs)
    assert command[-3] == "forgetting_on=restaurants"
    [command] = commands(runs, more=["forgetting_on=null"])
    assert [part for part in command if "forgetting_on" in part] == ["forgetting_on=null"]


def test_forgetting_on_no_task_is_not_repeated(tried: Callable[..., list[RunRecord]]) -> None:
    assert commands(tried({2e-3: [0.7]}, "task=cola", "method=ft", forgetting={**FORGOTTEN, "task": "my_own"})) == []


def test_a_run_without_texts_is_repeated_without_them(make_referenced: MakeRecord) -> None:
    """Whether or not its record lists ``task.decoding=null`` among its deviations."""
    listed = {"task.decoding": [None, {"beams": 5}], "task.score": ["loss", "bleu"]}
    for deviations in ({}, listed):
        [command] = commands([make_referenced(1.5, "method=ft", "model=gpt2_medium", deviations=deviations)])
        assert {"task.decoding=null", "task.score=loss"} <= set(command)
