"""What stands in the current folder and in the environment changes neither the program nor its output."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.cli.main import main
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record


def test_files_named_like_modules_in_the_current_folder_are_not_imported(
    process: Callable[..., Any], here: Path
) -> None:
    for name in ("random", "torch", "hydra", "yaml", "json"):
        (here / f"{name}.py").write_text("raise SystemExit('imported')\n")
    (here / "conf").mkdir()
    (here / "conf/config.yaml").write_text("rank: 99\n")
    (here / ".env").write_text("ROSA_BENCH_CACHE=elsewhere\n")
    outcome = process("task=cola", "method=lora", "--cfg", "job", PYTHONPATH=f":{Path(__file__).parents[2]}")
    assert (outcome.status, outcome.err) == (0, "")
    assert "\nrank: 8\n" in f"\n{outcome.out}"


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "0"}, {"COLUMNS": "x"}, {"TERM": "dumb"},
    pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    pytest.param({"JPY_PARENT_PID": "1", "NO_COLOR": "1"}, marks=pytest.mark.slow),
])  # fmt: skip
def test_tables_are_printed_whatever_the_terminal_says_of_itself(
    process: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord], environment: dict[str, str]
) -> None:
    save_record(make_record("task=cola", "method=lora", "seed=1", dev=0.4), here / "results")
    save_record(make_record("task=cola", "method=lora", "seed=2", dev=0.6), here / "results")
    outcome = process("tables", "write=false", **environment)
    assert outcome.status == 0, outcome.err
    assert "LoRA" in outcome.out
    assert "50.0" in outcome.out


def test_next_refuses_to_print_a_command_that_an_encoding_would_change(
    process: Callable[..., Any], here: Path, make_record: Callable[..., RunRecord]
) -> None:
    save_record(make_record("task=cola", "method=lora"), here / "results")
    outcome = process("next", "data_dir=/Übung", PYTHONIOENCODING="ascii")
    outcome.assert_one_line_error("ascii lacks", "PYTHONIOENCODING=utf-8")
    assert outcome.out == ""
    printed = process("next", "data_dir=/Übung", PYTHONIOENCODING="utf-8", PYTHONUTF8="1").out
    assert spelled(["data_dir=/Übung"])[0] in shlex.split(printed)


@pytest.mark.parametrize("arguments", [["task=grammar", "model=tiny_bert"], ["plan", "task=grammar"], ["next"]])
def test_a_current_folder_that_was_deleted_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    monkeypatch.chdir(here)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "rosa-bench: the current folder was deleted; change to another one\n"
