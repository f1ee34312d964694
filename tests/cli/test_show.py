"""``rosa-bench show`` and ``rosa-bench ls``, on records as a run leaves them and on hostile ones."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.run_id import public_config
from rosa_bench.records.predictions import RowPredictions
from rosa_bench.records.predictions import save as save_predictions
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import path_of, save_record
from rosa_bench.runs.resolve import ResolvedRun

MakeRecord = Callable[..., RunRecord]
EPOCHS = [{"train_loss": 1 / n, "scores": {"accuracy": 0.5 + n / 20, "loss": 1 / n}, "time_s": n} for n in range(1, 6)]


def with_epochs(record: RunRecord, **scores: Any) -> RunRecord:
    """The record with a curve of five epochs; ``scores`` replace others of its scores."""
    values = to_values(record)
    return from_values({**values, "scores": {**values["scores"], "epochs": EPOCHS, **scores}})


@pytest.fixture
def saved(make_record: MakeRecord, here: Path) -> RunRecord:
    """A completed run on RTE in results/, with a curve, predictions and an adapter."""
    run = make_record(
        "task=rte", "method=rosa", "epochs=5", dev=0.8,
        deviations={"epochs": [5, 10]}, time_s={"train": 60.0, "load": 2.0, "total": 62.0},
        memory_bytes={"train": 2**30}, versions={"torch": "2.11", "python": "3.11"},
        git={"commit": "a" * 40, "dirty": True},
    )  # fmt: skip
    run = with_epochs(run, predictions=f"{run.id}.predictions.jsonl", selected={"epoch": 3, "accuracy": 0.8})
    path = save_record(run, here / "results")
    rows: dict[str, Any] = {"labels": [0] * 10, "predictions": [0] * 8 + [1] * 2, "percent": [70] * 10}
    save_predictions(RowPredictions(run=run.id, epoch=3, rows="0" * 64, **rows), path, here / "results")
    (here / "outputs" / run.id / "adapter").mkdir(parents=True)
    (here / "outputs" / run.id / "adapter/run.json").write_text("{}")
    return run


def test_a_run_is_shown_in_80_columns(rosa_bench: Callable[..., Any], here: Path, saved: RunRecord) -> None:
    outcome = rosa_bench("show")
    assert (outcome.status, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    text = " ".join(outcome.out.split())
    low, high = binomtest(round(0.8 * 277), 277).proportion_ci(method="wilson")  # RTE has 277 dev rows
    few = binomtest(8, 10).proportion_ci(method="wilson")
    for part in (
        saved.id, "completed; started 2026-01-01 00:00 UTC", "epochs=5 (protocol: 10)",
        f"selected 80.0 [{100 * low:.1f}, {100 * high:.1f}] on dev, epoch 3 of 5", "interval over 277 rows, Wilson",
        f"right on 8 of 10 rows, 80.0 [{100 * few.low:.1f}, {100 * few.high:.1f}] %",
        "62.0 (train 60.0, load 2.0)", "peak, MiB train 1,024", "NVIDIA H200", "aaaaaaaaaaaa, with changes",
        "python 3.11, torch 2.11", "1 1 55", "3* 0.3333 65", "5 0.2 75", "results/runs/rte/roberta_base",
        path_of(saved, here).name, f"{saved.id}.predictions.jsonl", f"outputs/{saved.id}/adapter",
        f"rosa-bench export {saved.id} to=peft",
    ):  # fmt: skip
        assert part in text, part
    assert "checkpoints" not in text
    assert rosa_bench("show", saved.id[:8]).out == outcome.out == rosa_bench("show", "last").out


def test_the_candidates_of_a_run_that_trains_nothing_are_not_called_epochs(
    rosa_bench: Callable[..., Any], here: Path, make_record: MakeRecord
) -> None:
    candidates = [f"layer at rank {rank}" for rank in range(5, 0, -1)]
    run = with_epochs(
        make_record("task=rte", "method=laser", candidates=candidates), selected={"epoch": 3, "accuracy": 0.8}
    )
    save_record(run, here / "results")
    shown = " ".join(rosa_bench("show").out.split())
    for part in (
        "on dev, candidate 3 of 5",
        "chosen layer at rank 3",
        "Candidates: accuracy on",
        "* the selected candidate",
    ):
        assert part in shown
    assert "train loss" not in shown and "epoch 3" not in shown


def test_the_path_of_a_record_may_have_an_equals_sign(rosa_bench: Callable[..., Any], saved: RunRecord) -> None:
    Path("lr=2").mkdir()
    shutil.copy(path_of(saved, Path("results")), "lr=2/a.json")
    assert rosa_bench("show", "lr=2/a.json").out.startswith(saved.id)
    rosa_bench("show", "result_dir=results").assert_one_line_error("did you mean results_dir?")


def test_the_next_command_compares_with_another_method_of_the_folder(
    rosa_bench: Callable[..., Any], here: Path, saved: RunRecord, make_record: MakeRecord
) -> None:
    assert "compare" not in rosa_bench("show", saved.id).out
    save_record(make_record("task=rte", "method=lora", dev=0.7), here / "results")
    save_record(make_record("task=rte", "method=ft", "seed=3", dev=0.7), here / "results")
    assert "rosa-bench compare method=rosa,lora task=rte model=roberta_base" in rosa_bench("show", saved.id).out


@pytest.mark.parametrize(("status", "words"), [
    ("failed", ["failed: lost", "run it again", "retry_failed=true"]),
    ("interrupted", ["interrupted: lost", "the same command starts it again"]),
])  # fmt: skip
def test_the_command_of_an_incomplete_run_makes_the_same_run(
    rosa_bench: Callable[..., Any], here: Path, make_record: MakeRecord, status: str, words: list[str]
) -> None:
    free = ["accumulate=2", "precision=float32", "gradient_checkpointing=true", "save_adapter=true", "device=cpu"]
    run = make_record("task=grammar", "model=tiny_bert", "method=rosa", "rank=3", "lr=3e-4", "seed=5", "epochs=7",
                      *free, status=status, error="lost", deviations={"epochs": [7, 10]},
                      device={"type": "cpu", "name": "one", "precision": "float32"})  # fmt: skip
    save_record(run, here / "results")
    shown = rosa_bench("show")
    assert [word for word in words if word not in shown.out] == []
    command = shown.out[shown.out.index("rosa-bench ") :].replace("\\\n", " ")
    _, *arguments = shlex.split(command)
    with composing() as composer:
        composed = public_config(parse(composer.compose(tuple(arguments))))
    assert composed == run.config
    (here / "outputs" / run.id / "checkpoints/step-1").mkdir(parents=True)
    if status == "interrupted":
        assert "goes on from its checkpoint" in rosa_bench("show").out


@pytest.mark.parametrize(("method", "exported"), [("lora", True), ("ft", False), ("houlsby", False)])
def test_only_a_run_that_can_have_an_adapter_is_to_be_exported(
    rosa_bench: Callable[..., Any], here: Path, make_record: MakeRecord, method: str, exported: bool
) -> None:
    save_record(make_record("task=rte", f"method={method}"), here / "results")
    assert ("to export it" in rosa_bench("show").out) is exported


def test_what_a_record_does_not_name_is_to_be_added(
    rosa_bench: Callable[..., Any], here: Path, make_record: MakeRecord
) -> None:
    interrupted = make_record("task=rte", "model=tiny_bert", status="interrupted", model={"source": "path"})
    save_record(interrupted, here / "results")
    assert "add the model.path= that it had" in " ".join(rosa_bench("show").out.split())
    interrupted.data.source = "files"
    save_record(interrupted, here / "results")
    assert "add the data= or data_dir= and the model.path= that it had" in " ".join(rosa_bench("show").out.split())


def test_checkpoints_and_adapters_are_looked_for_where_a_run_puts_them(here: Path) -> None:
    places = {name: getattr(ResolvedRun, name).fget for name in ("checkpoints", "saved_model", "saved_adapter")}

    class Some:
        output_dir = here

    from rosa_bench.report.show.files import FOLDERS

    assert [places[name](Some()).name for name in places] == list(FOLDERS)


HOSTILE = "\x1b[2J\x1b]0;title\x07\u202e\r\nrosa-bench: fine"


def test_nothing_of_a_record_moves_the_cursor(
    rosa_bench: Callable[..., Any], here: Path, make_record: MakeRecord
) -> None:
    values = to_values(with_epochs(make_record("task=rte", "method=rosa")))
    values["config"]["task"]["title"] = values["config"]["model"]["title"] = values["config"]["method"]["title"] = (
        HOSTILE
    )
    values["config"]["protocol"]["title"] = values["error"] = values["data"]["source"] = HOSTILE
    values |= {
        "status": "failed",
        "versions": {"torch": HOSTILE, HOSTILE: "1"},
        "git": {"commit": HOSTILE, "dirty": True},
    }
    values["device"]["name"] = values["data"]["fingerprint"] = HOSTILE
    values["data"]["facts"] = {"note": HOSTILE}
    values["deviations"] = {"task.train": [HOSTILE, HOSTILE], "method.init": [HOSTILE, "x"]}
    values["scores"] |= {
        "reported": HOSTILE,
        "selected": {HOSTILE: 0.1, "epoch": 1},
        "last": {HOSTILE: 0.1, "epoch": 1},
    }
    values["scores"]["selected_by"] = {"name": HOSTILE, "lower_is_better": False}
    values["time_s"] = {HOSTILE: 1.0, "total": 1.0}
    values["memory_bytes"] = {HOSTILE: 1}
    save_record(from_values(values), here / "results")
    for command in (["show"], ["ls"]):
        outcome = rosa_bench(*command)
        assert outcome.status == 0, outcome.err
        assert not [one for one in outcome.out if one != "\n" and not one.isprintable()]
        assert not any(line.startswith("rosa-bench: ") for line in outcome.out.splitlines())


@pytest.fixture
def several(make_record: MakeRecord, here: Path) -> list[RunRecord]:
    """Five runs in results/, of which one failed, in the order in which they were started."""
    made = (
        ("rosa", 1e-3, 0.71, {}),
        ("lora", 1e-3, 0.72, {}),
        ("lora", 2e-3, 0.73, {}),
        ("ft", 1e-5, 0.74, {}),
        ("ft", 1e-1, 0.5, {"status": "failed", "error": "not finite"}),
    )
    runs = []
    for number, (method, lr, score, changes) in enumerate(made):
        named = {"id": f"rte-{method}-{number}", "started_at": f"2026-01-0{9 - number}T00:00:00Z", **changes}
        runs.append(make_record("task=rte", f"method={method}", f"lr={lr}", dev=score, **named))
    for run in runs:
        save_record(run, here / "results")
    return runs[::-1]


@pytest.mark.parametrize(("arguments", "scores"), [
    ([], ["50.0", "74.0", "73.0", "72.0", "71.0"]),
    (["method=lora,rosa"], ["73.0", "72.0", "71.0"]),
    (["method=lora", "lr=2e-3"], ["73.0"]),
    (["rank=8", "lr=1e-3"], ["72.0", "71.0"]),
    (["limit=2"], ["72.0", "71.0"]),
    (["limit=2", "--all"], ["50.0", "74.0", "73.0", "72.0", "71.0"]),
    (["status=completed", "method=ft"], ["74.0"]),
    (["status=failed"], ["50.0"]),
])  # fmt: skip
def test_runs_are_listed_and_filtered_newest_last(
    rosa_bench: Callable[..., Any], several: list[RunRecord], arguments: list[str], scores: list[str]
) -> None:
    outcome = rosa_bench("ls", *arguments)
    assert (outcome.status, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    known = {f"{run.score * 100:.1f}" for run in several}
    assert [word for word in outcome.out.split() if word in known] == scores


@pytest.mark.parametrize(("arguments", "words"), [
    (["method=ia3"], ["no run has method=ia3", "values found: ft, lora, rosa"]),
    (["method=ft", "lr=1e-3"], ["no run has all of: method=ft lr=0.001"]),
    (["limit=0"], ["limit=0"]),
    (["five"], ["five is not KEY=VALUE"]),
])  # fmt: skip
def test_a_list_of_nothing_says_why(
    rosa_bench: Callable[..., Any], several: list[RunRecord], arguments: list[str], words: list[str]
) -> None:
    assert len(several) == 5
    rosa_bench("ls", *arguments).assert_one_line_error(*words)


def test_no_runs_are_an_error_of_one_line(rosa_bench: Callable[..., Any]) -> None:
    rosa_bench("ls").assert_one_line_error("results_dir=results has no runs")
    rosa_bench("show").assert_one_line_error("results_dir=results has no runs")
    rosa_bench("show", "a", "b").assert_one_line_error("usage: rosa-bench show")
    rosa_bench("show", "unheard_of").assert_one_line_error("unheard_of is not a run")
