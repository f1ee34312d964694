"""``rosa-bench choose`` as a user sees it, with tiny models and few rows."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.choose import choosing
from rosa_bench.choose.measuring import Measured
from rosa_bench.choose.plan import Arm, Cost, Rows, Size
from rosa_bench.choose.search import Found
from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import to_values
from rosa_bench.records.store import load_records
from rosa_bench.runs.resolve import ResolvedRun

RosaBench = Callable[..., Any]
QUICK = (
    "choose", "task=grammar", "model=tiny_roberta", "device=cpu", "limit_train=150", "limit_eval=20", "epochs=3",
    "batch_size=16", "max_length=32", "methods=lora,head_only,bitfit", "reference=head_only", "ranks=2",
    "lr_half_decades=0", "seeds=2",
)  # fmt: skip


def line_of(text: str, start: str) -> str:
    """The line of a text that begins so."""
    return next(line for line in text.splitlines() if line.startswith(start))


def scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Status and scores of every record, without times."""
    found = {run.id: to_values(run) for run in load_records(folder)}
    for values in found.values():
        for epoch in values["scores"]["epochs"]:
            del epoch["time_s"]
    return {name: {key: values[key] for key in ("status", "scores")} for name, values in found.items()}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Cost:
    """Instead of a measurement: what every kind is taken to cost."""
    cost = Cost(start_s=0.1, row_s=1e-4, selected_s=1e-4, reported_s=1e-4, memory_bytes=2**20)

    def measure(runs: dict[Arm, ResolvedRun], *_: object, **__: object) -> Measured:
        return Measured({arm.kind: cost for arm in runs}, Rows(150, 20, 0.1, 1000), "", [])

    monkeypatch.setattr(choosing, "measure", measure)
    return cost


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model learns nothing in three epochs. Its runs count as if they had learned something."""
    monkeypatch.setattr(Result, "has_collapsed", False)


@pytest.mark.long
@pytest.mark.usefixtures("learned")
def test_a_choice_ends_with_a_command_an_interval_and_ordinary_records(rosa_bench: RosaBench, here: Path) -> None:
    done = rosa_bench(*QUICK, "minutes=30")
    assert done.status == 0, done.err
    [answer] = (here / "outputs" / "choose").glob("*.md")
    text = answer.read_text()
    assert text in done.out
    assert text.startswith("# Use ")
    assert "2 seeds" in text
    assert "of 30 minutes" in text
    command = re.search(r"rosa-bench (.*) save_model=true", text)
    assert command is not None
    records = load_records(here / "outputs")
    completed = [run for run in records if run.status == "completed"]
    assert {run.status for run in records} <= {"completed", "interrupted"}
    assert {run.settings.seed for run in completed} == {0, 1}
    again = rosa_bench(*QUICK, "minutes=30")  # nothing is measured or trained
    assert again.status == 0
    assert "measuring" not in again.out
    assert load_records(here / "outputs") == records
    run = rosa_bench(*command.group(1).split())  # what is recommended has been run already, without saving the model
    assert run.status == 0
    assert load_records(here / "outputs") == records


@pytest.mark.slow
@pytest.mark.usefixtures("learned")
def test_a_choice_whose_time_runs_out_says_how_to_go_on_and_does(
    rosa_bench: RosaBench, here: Path, measured: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    class Clock:
        """Half a minute passes with every run."""

        def __call__(self) -> float:
            return 30.0 * len(made)

    begun = choosing.Runs._continue

    def counted(self: choosing.Runs, *arguments: object) -> object:
        made.append(0.0)
        return begun(self, *arguments)  # pyrefly: ignore[bad-argument-type]

    monkeypatch.setattr(choosing.Runs, "_continue", counted)
    choose = choosing.choose
    monkeypatch.setattr(choosing, "choose", lambda request: choose(request, clock=Clock()))
    done = rosa_bench(*QUICK, "minutes=1.5")
    assert done.status == 0, done.err
    assert "so far" in done.out
    [path] = Path("outputs", "choose").glob("*.md")
    assert done.out.endswith(f"\nThis answer is in {path}; rosa-bench ls results_dir=outputs lists its runs.\n")
    assert not (here / "results").exists()  # where the published records are in a clone
    assert "results_dir=outputs" in line_of(done.out, "rosa-bench protocol=fair")  # its run joins the others
    assert "the same command with more minutes goes on" in done.out
    assert len(made) == 2 + 1  # the third one would end too late, but two rungs are known
    assert {run.status for run in load_records(here / "outputs")} == {"interrupted"}
    made.clear()
    done = rosa_bench(*QUICK, "minutes=100")
    assert done.status == 0, done.err
    assert "so far" not in done.out
    alone = rosa_bench(*QUICK, "minutes=100", "results_dir=alone", "output_dir=alone")
    assert line_of(alone.out, "# Use") == line_of(done.out, "# Use")
    assert scores(here / "outputs") == scores(here / "alone")
    assert not list(here.glob("outputs/*/checkpoints"))  # of runs that will not go on


@pytest.mark.parametrize(("arguments", "words"), [
    (["model=minilm"], ["data=FILE", "task=TASK"]),
    (["task=grammar", "methods=lora,rsoa"], ["methods=rsoa", "did you mean"]),
    (["task=grammar", "lr=1e-3"], ["chooses lr itself", "lr_half_decades="]),
    (["task=grammar", "half_decades=0"], ["half_decades is not an option", "did you mean lr_half_decades?"]),
    (["task=grammar", "minutes=-1"], ["minutes=-1", "above 0"]),
    (["task=grammar", "minuts=1"], ["minuts", "minutes"]),
    (["task=grammar", "ranks=2,x"], ["ranks=2,x", "whole numbers"]),
    (["task=grammar", "ranks=0"], ["ranks=0", "from 1"]),
    (["task=grammar", "methods=laser", "model=tiny_roberta"], ["laser", "trains nothing"]),
    (["data=none.csv", "model=tiny_roberta"], ["none.csv", "does not exist"]),
    (["task=grammar", "reference=fft"], ["reference=fft"]),
])  # fmt: skip
def test_mistakes_are_one_line_before_anything_runs(
    rosa_bench: RosaBench, here: Path, arguments: list[str], words: list[str]
) -> None:
    rosa_bench("choose", *arguments).assert_one_line_error(*words)
    assert not list(here.glob("*/runs/*/*/*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "words"), [
    (["minutes=0.001"], ["too short for one run", "give more minutes"]),
    (["minutes=30", "memory_gb=0.0001"], ["memory_gb=0.0001 is too little for any method", "batch_size"]),
    (["minutes=30", "protocol=paper"], ["protocol=paper", "protocol=fair"]),
])  # fmt: skip
def test_a_budget_that_allows_nothing_is_refused_before_any_run(
    rosa_bench: RosaBench, here: Path, arguments: list[str], words: list[str]
) -> None:
    done = rosa_bench(*QUICK, *arguments)
    assert done.status == 1
    for word in words:
        assert word in done.err
    assert done.err.count("\n") == 1
    assert not list(here.glob("*/runs/*/*/*.json"))
    assert not list(here.glob("*/choose/*"))


@pytest.mark.slow
def test_another_file_is_another_choice(
    rosa_bench: RosaBench, here: Path, measured: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "search", lambda *_, **__: Found())
    for count in (30, 30, 31):
        with Path("mine.csv").open("w", newline="") as file:
            rows = [[f"text {number}", "yes" if number % 2 else "no"] for number in range(count)]
            csv.writer(file).writerows([["text", "label"], *rows])
        done = rosa_bench("choose", "data=mine.csv", "model=tiny_roberta", "methods=lora")
        done.assert_one_line_error("there is no recommendation")
    plans = [json.loads(path.read_text()) for path in (here / "outputs" / "choose").glob("*.json")]
    assert len({plan["id"] for plan in plans}) == len(plans) == 2
    given = ["task=classify", "protocol=fair", "results_dir=outputs", "data=mine.csv", "model=tiny_roberta"]
    assert plans[0]["given"] == given


@pytest.mark.slow
def test_a_choice_that_was_moved_goes_on_with_its_runs(
    rosa_bench: RosaBench, here: Path, measured: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def search(size: Size, runner: choosing.Runs, **_: object) -> Found:
        folders.append(runner.resolved(size.arms[0], 0).results_dir)
        return Found()

    monkeypatch.setattr(choosing, "search", search)
    rosa_bench(*QUICK).assert_one_line_error("there is no recommendation; see outputs/choose/")
    (here / "outputs").rename(here / "mine")
    rosa_bench(*QUICK, "results_dir=mine").assert_one_line_error("there is no recommendation; see mine/choose/")
    assert folders == [Path("outputs"), Path("mine")]
    assert len(list(here.glob("*/choose/*.json"))) == 1
