"""A run that has collapsed after two epochs is ended, and is recorded as what it is."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.mistake import mistake_in
from rosa_bench.records.parts.measured import Stopped
from rosa_bench.records.predictions import path, read
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.next import repeated
from rosa_bench.report.tables.collapses import build
from rosa_bench.report.tables.runs import run_rows
from rosa_bench.runs import run as run_module
from rosa_bench.runs.planning.plan import epoch_times_s, estimate_s
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.runs.status import status_of
from rosa_bench.system.errors import UserError

MakeSetup = Callable[..., ResolvedRun]
TINY = (
    "task=grammar", "model=tiny_roberta", "method=lora", "device=cpu", "epochs=4", "limit_train=40", "limit_eval=24",
    "batch_size=8", "checkpoint_s=0",
)  # fmt: skip
COLLAPSES, STOPS = "lr=0.1", "stop_collapsed=true"
RULES = {"paper": ("protocol=paper",), "fair": ("protocol=fair", "protocol.held_out_rows=0.4")}


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path) -> MakeSetup:
    """``make_setup("place", "lr=1")``: a tiny run with its results in that folder."""

    def make(place: str, *overrides: str) -> ResolvedRun:
        where = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        changed = {"epochs": [4, 10], **({"stop_collapsed": [True, False]} if STOPS in overrides else {})}
        return resolve(compose(*TINY, *overrides, *where), changed)

    return make


def outcome(record: RunRecord) -> dict[str, Any]:
    values = to_values(record)
    for epoch in values["scores"]["epochs"]:
        epoch["time_s"] = 0
    return {key: values[key] for key in ("id", "status", "scores", "stopped", "resamples")}


@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_a_collapsed_run_ends_after_the_second_epoch_and_is_the_start_of_the_full_run(
    make_setup: MakeSetup, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    how = (COLLAPSES, *RULES[protocol], "save_model=true")
    stops, goes_on = make_setup("stops", STOPS, *how), make_setup("goes on", *how)
    with caplog.at_level(logging.WARNING):
        stopped = run(stops)
    assert any("stopped after epoch 2 of 4: all rows get the same prediction" in line for line in caplog.messages)
    full = run(goes_on)
    assert stopped.id != full.id
    assert full.stopped is UNSET
    assert "stopped" not in to_values(full)
    assert (stopped.status, stopped.error, mistake_in(stopped)) == ("completed", None, None)
    assert isinstance(stopped.stopped, Stopped)
    assert stopped.stopped.epoch == stopped.last.epoch == len(stopped.scores.epochs) == 2
    for ours, theirs in zip(stopped.scores.epochs, full.scores.epochs, strict=False):
        assert (ours.train_loss, ours.scores) == (theirs.train_loss, theirs.scores)
    assert stopped.selected.epoch in (1, 2)
    assert stopped.has_collapsed
    assert stopped.scores.predictions
    assert read(path(stops.record_path)).epoch == stopped.selected.epoch
    assert stops.saved_model.is_dir()
    assert load_records(stops.results_dir) == [stopped]
    assert status_of(stops).kind == "completed"


def test_a_run_that_still_learns_is_not_changed(make_setup: MakeSetup) -> None:
    how = ("method=ft", "lr=3e-3", "protocol=fair")  # all answers are alike, and the loss falls by more than 1 %
    made = [
        to_values(run(make_setup(place, *how, f"stop_collapsed={stops}")))
        for place, stops in (("a", "true"), ("b", "false"))
    ]
    for values in made:
        assert "stopped" not in values
        assert values["scores"].pop("predictions").startswith(values["id"])
        for epoch in values["scores"]["epochs"]:
            epoch["time_s"] = 0
    assert len(made[0]["scores"]["epochs"]) == 4
    assert made[0]["scores"] == made[1]["scores"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_of_two_epochs_cannot_be_stopped(make_setup: MakeSetup, epochs: int) -> None:
    record = run(make_setup("short", STOPS, COLLAPSES, f"epochs={epochs}"))
    assert len(record.scores.epochs) == epochs
    assert record.stopped is UNSET


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("protocol", ["paper", pytest.param("fair", marks=pytest.mark.slow)])
def test_a_run_killed_between_the_stop_and_the_record_ends_the_same(
    make_setup: MakeSetup, protocol: str, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (STOPS, COLLAPSES, *RULES[protocol])
    alone, killed = make_setup("alone", *how), make_setup("killed", *how)
    expected = outcome(run(alone))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_module, "final_results", interrupt)
        run(killed)
    assert status_of(killed).kind == "unfinished"
    again = at_step(-1, interrupt)
    assert outcome(run(killed, [again])) == expected
    assert again.steps == []  # nothing more is trained
    assert path(killed.record_path).read_bytes() == path(alone.record_path).read_bytes()


def test_a_run_interrupted_before_the_stop_ends_the_same(make_setup: MakeSetup, at_step: Any) -> None:
    how = (STOPS, COLLAPSES, "protocol=paper")
    alone, killed = make_setup("alone", *how), make_setup("killed", *how)
    with pytest.raises(KeyboardInterrupt):
        run(killed, [at_step(8, interrupt)])
    again = at_step(-1, interrupt)
    assert outcome(run(killed, [again])) == outcome(run(alone))
    assert again.steps == [8, 9]


@pytest.mark.parametrize(("task", "model"), [("restaurants", "tiny_gpt2"), ("synthetic", "mlp1")])
def test_tasks_without_labels_refuse_the_setting_in_one_line(
    compose: Callable[..., RunConfig], task: str, model: str
) -> None:
    with pytest.raises(UserError, match=rf"^stop_collapsed=true is not for task={task}: it has no class or value"):
        compose(f"task={task}", f"model={model}", STOPS)


# What reads such a record


@pytest.fixture
def stopped(make_record: Callable[..., RunRecord]) -> Callable[..., RunRecord]:
    """``stopped(seed=1)``: the record of a run that was stopped after epoch 2 of 10."""

    def make(seed: int = 0, spread: float = 0.2) -> RunRecord:
        deviations = {"stop_collapsed": [True, False]}
        record = make_record(
            "task=cola", "method=lora", "lr=2e-3", STOPS, f"seed={seed}", deviations=deviations, dev=0.0, held_out=0.1,
            stopped={"epoch": 2, "reason": "all alike"}, time_s={"total": 20.0}, id=f"run-{seed}",
        )  # fmt: skip
        record.last.update({"epoch": 2, "spread": spread})
        record.selected["epoch"] = 1
        return record

    return make


def test_a_stopped_run_counts_as_collapsed_and_tables_say_that_it_was_stopped(
    stopped: Callable[..., RunRecord],
) -> None:
    record = stopped()  # although its predictions for the reported rows differ a little
    assert record.has_collapsed
    [row] = run_rows([record])
    assert (row["status"], row["collapsed"], row["stopped_after"]) == ("completed", "true", "2")
    [group] = select([record, stopped(seed=1)])
    [cell] = group.cells.values()
    assert len(cell.runs) == 2  # its score counts, also for the choice of the learning rate
    assert [change.key for change in group.setting.deviations] == ["stop_collapsed"]
    [section] = build([group]).sections
    assert "stop_collapsed=true" in str(section.heading)
    assert [[entry.mean for entry in line.entries] for line in section.lines] == [["2 of 2, 2 stopped"]]


def test_stopped_and_full_runs_are_never_in_one_cell(
    stopped: Callable[..., RunRecord], make_record: Callable[..., RunRecord]
) -> None:
    full = make_record("task=cola", "method=lora", "lr=2e-3", dev=0.5, held_out=0.5)
    assert len(select([stopped(), full])) == 2


def test_next_repeats_the_setting(stopped: Callable[..., RunRecord]) -> None:
    with composing() as composer:
        assert STOPS in repeated(stopped(), composer)


def test_an_estimate_counts_the_epochs_that_were_made(
    stopped: Callable[..., RunRecord], compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = resolve(compose("task=grammar", "model=tiny_roberta", "method=lora", "device=cpu", "epochs=10"), {})
    record = stopped()
    record.config |= {"task": {**record.config["task"], "name": "grammar"}}
    record.config |= {"model": {**record.config["model"], "name": "tiny_roberta"}}
    vars(record).clear()  # cached settings
    record.device.type = "cpu"
    assert estimate_s(resolved, epoch_times_s([record])) == pytest.approx(100)


@pytest.mark.parametrize("epoch", [10, 11])
def test_a_run_that_made_all_epochs_was_not_stopped(stopped: Callable[..., RunRecord], epoch: int) -> None:
    record = stopped()
    assert isinstance(record.stopped, Stopped)
    record.stopped.epoch = epoch
    assert mistake_in(record) == f"stopped.epoch is {epoch}, and the run has 10"
