import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import rosa_bench as rosa_bench_package
from rosa_bench.cli.command import commands, load
from rosa_bench.cli.help import options_text
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import Plain
from rosa_bench.system.setting import setting

HEAVY = {"torch", "transformers", "datasets", "evaluate", "numpy", "matplotlib", "hydra", "omegaconf"}
COMMANDS = (
    "choose", "compare", "export", "figures", "ls", "methods", "models", "next", "plan", "report", "run", "score",
    "show", "tables",
)  # fmt: skip


def test_the_commands_are_the_files_that_say_so() -> None:
    assert tuple(commands()) == COMMANDS


def test_help_names_every_choice_and_imports_nothing_heavy(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rosa_bench.cli.main", "--help"],
        capture_output=True, text=True, check=True, cwd=here,
    )  # fmt: skip
    text = re.sub(r"\n {8,}", " ", done.stdout)
    for group in ("task", "model", "method", "protocol", "logger", "experiment", "optimizer"):
        line = next(line for line in text.splitlines() if line.startswith(f"  {group}: "))
        files = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
        assert line.removeprefix(f"  {group}:").strip().split(", ") == files
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    for declared in fields(Plain):
        assert f"\n  {declared.name}" in done.stdout
    assert 'eval "$(rosa-bench -sc install=bash)"' in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rosa_bench.config.schema" in imported  # the list is one of modules
    assert imported.isdisjoint(HEAVY)
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_its_options_and_an_example(rosa_bench: Callable[..., Any], name: str) -> None:
    outcome = rosa_bench(name, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == rosa_bench(name, "-h").out == rosa_bench("help", name).out
    assert f"Usage: rosa-bench {name}" in outcome.out
    assert "\n  rosa-bench " in outcome.out.partition("\nExamples:")[2]
    options = getattr(load(name), "Options", None)
    for declared in fields(options) if options else ():
        default = "null" if declared.default is None else str(declared.default).lower()
        assert f"\n  {declared.name}={default} " in outcome.out


def test_the_whole_help_has_several_names(rosa_bench: Callable[..., Any]) -> None:
    text = rosa_bench("--help").out
    assert text.startswith("rosa-bench: ")
    assert rosa_bench("-h").out == rosa_bench("help").out == rosa_bench("help", "-h").out == rosa_bench().out == text


def test_version_is_that_of_the_package_and_the_commit(rosa_bench: Callable[..., Any]) -> None:
    version = re.escape(rosa_bench_package.__version__)
    commit = r"( \(commit [0-9a-f]{10}(, with changes)?\))?"
    assert re.fullmatch(f"rosa-bench {version}{commit}\n", rosa_bench("--version").out)


def test_a_setting_shows_its_default_choices_and_help() -> None:
    @dataclass(kw_only=True)
    class Options:
        level: str = setting("how much", default="low", choices=("low", "high"))
        silent: int = 3
        needed: int | None = setting("no default")

    assert options_text(Options).splitlines() == ["  level=low  how much (low, high)", "  needed     no default"]


@pytest.mark.parametrize(("arguments", "meant"), [
    (["tabels"], "tables"),
    (["help", "tabels"], "tables"),
    (["hepl"], "help"),
    (["lora"], "method=lora"),
    (["tabel2"], "+experiment=table2"),
    (["experiment=tabel2"], "table2"),
    (["launch=jobllib"], "joblib"),
    (["methods", "galor"], "galore"),
    (["taks=cola"], "task"),
    (["rank_=8"], "rank"),
    (["task=clao"], "cola"),
    (["task=grammar", "task.phenomena=[pronoun_cas]"], "pronoun_case"),
    (["+experiment=quickstrat"], "quickstart"),
    (["method.resample_evry=1"], "method.resample_every"),
    (["++method.rnak=1"], "method.rank"),
    (["+optimizer.beta=1"], "optimizer.betas"),
    (["-m", "taks=cola,mrpc"], "task"),
    (["plan", "taks=cola,mrpc"], "task"),
    (["tables", "results_dri=x"], "results_dir"),
    (["next", "results_dri=x"], "results_dir"),
    (["next", "method.selct=top"], "method.select"),
    (["compare", "method=rosa,lora", "results_dri=x"], "results_dir"),
    (["compare", "metod=rosa,lora"], "method"),
    (["ls", "metod=rosa"], "method"),
    (["ls", "results_dri=x"], "results_dir"),
    (["ls", "status=faild"], "failed"),
    (["show", "results_dri=x"], "results_dir"),
    (["choose", "data=x.csv", "metods=lora"], "methods"),
    (["choose", "task=grammar", "model=tiny_bert", "methods=lroa"], "lora"),
    (["models", "pul", "minilm"], "pull"),
    (["models", "pull", "minillm"], "minilm"),
])  # fmt: skip
def test_a_misspelt_word_names_the_nearest_one(
    rosa_bench: Callable[..., Any], arguments: list[str], meant: str
) -> None:
    rosa_bench(*arguments).assert_one_line_error(f"did you mean {meant}?")


@pytest.mark.parametrize(("arguments", "words"), [
    (["~lr"], ["~lr removes a setting"]),
    (["~method"], ["~method removes a setting"]),
    (["++unknown=5"], ["unknown is not a setting", "rank, lr, seed"]),
    (["++unknown=5", "-m", "seed=0,1"], ["unknown is not a setting"]),
    (["task=cola", "rank"], ["rank is not KEY=VALUE"]),
    (["--nonsense"], ["--nonsense", "rosa-bench --help"]),
    (["plan", "--cfg", "job"], ["--cfg", "rosa-bench plan"]),
    (["help", "run", "plan"], ["plan is one too many", "rosa-bench help COMMAND"]),
])  # fmt: skip
def test_arguments_without_a_meaning_are_refused(
    rosa_bench: Callable[..., Any], arguments: list[str], words: list[str]
) -> None:
    rosa_bench(*arguments).assert_one_line_error(*words)


@pytest.mark.parametrize("arguments", [
    ["task=unheard_of"],
    ["task=grammar", "model=tiny_bert", "method=lora", "method.init=svd"],
])  # fmt: skip
def test_a_configuration_error_imports_nothing_heavy(here: Path, arguments: list[str]) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'rosa_bench.cli.main'} & set(sys.modules))))\n"
        "from rosa_bench.cli.main import main\n"
        f"main({arguments})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=here)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("rosa-bench: ")
    assert done.stdout == "['rosa_bench.cli.main']\n"


def test_a_traceback_is_shown_on_demand_only(process: Callable[..., Any]) -> None:
    process("rank=0").assert_one_line_error("rank=0")
    shown = process("rank=0", ROSA_BENCH_TRACEBACK="1")
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert "UserError: rank=0" in shown.err


def test_a_reader_that_has_read_enough_causes_no_traceback(here: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)  # as head does
    command = [sys.executable, "-m", "rosa_bench.cli.main", "--help"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False, cwd=here)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_package_is_the_program(process: Callable[..., Any]) -> None:
    command = [sys.executable, "-m", "rosa_bench", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, process("--version").out)
