import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record

TINY = ("task=grammar", "model=tiny_bert", "epochs=1", "limit_train=32", "limit_eval=32", "device=cpu")


def test_next_prints_commands_that_run(rosa_bench: Callable[..., Any], tmp_path: Path) -> None:
    few = [*TINY, "method=ft", "epochs=1", "limit_train=16", "limit_eval=8", f"results_dir={tmp_path}"]
    assert rosa_bench(*few, "lr=2e-3").status == 0
    outcome = rosa_bench("next", "seeds=1", "device=cpu", f"results_dir={tmp_path}")
    [command] = outcome.out.splitlines()
    assert {"lr=0.0006,0.006", "seed=0", "device=cpu", f"results_dir={tmp_path}"} <= set(shlex.split(command))
    assert rosa_bench(*shlex.split(command)[1:]).status == 0
    assert rosa_bench("next", "seeds=1", f"results_dir={tmp_path}", "task=grammar,cola").status == 0
    read_end, write_end = os.pipe()
    os.close(read_end)  # as head does when it has read enough
    arguments = [
        sys.executable,
        "-c",
        "from rosa_bench.cli.main import main; main()",
        "next",
        f"results_dir={tmp_path}",
    ]
    done = subprocess.run(arguments, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("meant", "ranks"), [
    ("rank=2", ["rank=2"]),
    ("method.rank=2,8", ["rank=2", "rank=8"]),
    ("epochs=10", ["rank=2", "rank=8"]),
])  # fmt: skip
def test_next_is_restricted_to_the_given_runs_and_adds_what_changes_no_score(
    rosa_bench: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord], meant: str, ranks: list[str]
) -> None:
    for settings in (["method=lora", "rank=2"], ["method=lora", "rank=8"], ["method=ft", "epochs=3"]):
        save_record(make_record(*settings), here / "results")
    more = ["logger=tensorboard", "logger.folder=runs", "save_model=true"]
    commands = [shlex.split(line) for line in rosa_bench("next", meant, *more).out.splitlines()]
    assert [[word for word in command if word.startswith("rank=")] for command in commands] == [[it] for it in ranks]
    assert all(command[-3:] == more for command in commands)


def test_next_asks_where_rows_from_files_are(
    rosa_bench: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord]
) -> None:
    record = make_record("task=cola")
    for source, asked in (("files", True), ("hub nyu-mll/glue", False)):
        record.data.source = source
        save_record(record, here / "results")
        assert ("data= or data_dir=" in rosa_bench("next").err) is asked
        given = rosa_bench("next", "data_dir=glue")
        assert "data_dir=glue" in given.out
        assert "data= or data_dir=" not in given.err


@pytest.mark.parametrize(("arguments", "words"), [
    (["seeds=many"], ["seeds", "many"]),
    (["seeds=0"], ["seeds=0", "at least 1"]),
    (["seeds=1001"], ["seeds=1001", "at most 1000"]),
    (["cola"], ["cola is not KEY=VALUE"]),
    (["task=col"], ["no runs of task=col"]),
    (["task=cola", "rank=7"], ["no runs of task=cola rank=7"]),
    (["lr=2e-3", "seed=1"], ["lr, seed", "leave out"]),
    (["+experiment=smoke"], ["+experiment=smoke", "leave it out"]),
    (["deivce=cpu"], ["deivce is not a setting"]),
    ([], ["results_dir=results", "no runs"]),
])  # fmt: skip
def test_a_mistake_of_next_is_reported(
    rosa_bench: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord],
    arguments: list[str], words: list[str],
) -> None:  # fmt: skip
    if arguments:
        save_record(make_record("task=cola"), here / "results")
    rosa_bench("next", *arguments).assert_one_line_error(*words)


def test_compare_shows_differences_and_reports_mistakes(
    rosa_bench: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord]
) -> None:
    rosa_bench("compare", "method=rosa,lora").assert_one_line_error("results_dir=results", "no completed run")
    for method, dev in (("rosa", 0.5), ("lora", 0.4)):
        save_record(make_record(f"method={method}", dev=dev), here / "elsewhere")
    outcome = rosa_bench("compare", "method=rosa,lora", "results_dir=elsewhere")
    assert outcome.status == 0
    assert [words for words in ("rosa minus lora", "+10.0 (1)", "paired over seeds") if words not in outcome.out] == []
    rosa_bench("compare", "method=rosa", "results_dir=elsewhere").assert_one_line_error("no setting has several values")
    rosa_bench("compare", "task=cola,rte").assert_one_line_error("several values of task, model, protocol, seed only")
    rosa_bench("compare", "method=rosa,", "results_dir=elsewhere").assert_one_line_error()
    rosa_bench("compare", "metod=rosa,lora", "results_dir=elsewhere").assert_one_line_error("did you mean method?")


@pytest.mark.parametrize("command", ["compare", "choose", "next", "ls", "tables"])
def test_a_word_alone_is_refused_without_a_guess(rosa_bench: Callable[..., Any], command: str) -> None:
    outcome = rosa_bench(command, "protocol")
    outcome.assert_one_line_error("protocol is not KEY=VALUE", "options: ")
    assert "did you mean" not in outcome.err


def test_compare_takes_another_score_of_the_records(
    rosa_bench: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord]
) -> None:
    for method, loss in (("rosa", 0.25), ("lora", 0.75)):
        record = make_record(f"method={method}", dev=0.5)
        for result in (record.selected, record.last):
            result["loss"] = loss
        save_record(record, here / "results")
    save_record(make_record("method=ft"), here / "results")
    outcome = rosa_bench("compare", "method=rosa,lora", "metric=loss")
    assert outcome.status == 0
    missing = [
        words for words in ("Score: loss.", "-0.5000 (1)", "1 without the score loss") if words not in outcome.out
    ]
    assert missing == []
    rosa_bench("compare", "method=rosa,lora", "metric=los").assert_one_line_error("no run has the score los", "loss")
