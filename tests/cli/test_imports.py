"""What a command imports, and when: libraries take seconds, and a run must not wait for those that it does not need."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import save_record

# Not for a classification before its first evaluation, nor ever for its training.
NOT_NEEDED = ("sacrebleu", "sklearn.metrics", "scipy.stats", "evaluate", "datasets", "pandas", "matplotlib", "peft")
FIRST_STEP = """
import gc, sys, rosa_bench
from rosa_bench.training.observers.base import Observer
class Imports:
    def find_spec(self, name, *_):
        if name in ("torch", "transformers.modeling_utils"):
            print(f"{name}:collecting={gc.isenabled()}")
class First(Observer):
    def on_step_end(self, training):
        print(*sys.modules, f"training:collecting={gc.isenabled()}")
        raise KeyboardInterrupt
sys.meta_path.insert(0, Imports())
try:
    rosa_bench.run("task=grammar model=tiny_bert method=rosa device=cpu limit_train=16 limit_eval=8".split(), [First()])
except KeyboardInterrupt:
    pass
"""
COMMANDS = """
import sys
from rosa_bench.cli.main import main
for arguments in (["--help"], ["help", "tables"], ["ls"], ["show"], ["compare", "method=rosa,lora"], ["next"],
                  ["tables", "write=false"]):
    try:
        main(arguments)
    except SystemExit as error:
        assert not error.code, arguments
    print("imported by", arguments[0], *sys.modules)
"""
FIRST_WORD = """
import sys
from rosa_bench.cli.main import main
class Terminal:
    def isatty(self):
        return True
    def write(self, text):
        print(*sys.modules, file=sys.__stdout__)
        sys.__stderr__.write(text)
        raise SystemExit
    def flush(self):
        pass
sys.stderr = Terminal()
main(sys.argv[1:])
"""


def modules(code: str, *arguments: str, here: Path) -> tuple[set[str], str]:
    """Return the modules that a program prints, and its last words."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
    return set(done.stdout.split()), done.stderr


@pytest.mark.slow
def test_a_run_imports_only_what_it_needs_before_its_first_step(tmp_path: Path) -> None:
    imported, errors = modules(FIRST_STEP, here=tmp_path)
    [line] = errors.splitlines()  # no library prints anything
    assert line.startswith("interrupted; recorded in ")
    assert "transformers.modeling_utils" in imported  # the list is one of modules
    assert imported.isdisjoint(NOT_NEEDED)
    states = {one for one in imported if ":collecting=" in one}
    assert states == {
        "torch:collecting=False", "transformers.modeling_utils:collecting=False", "training:collecting=True",
    }  # fmt: skip


def test_what_is_printed_from_records_needs_no_torch_and_help_no_hydra(
    tmp_path: Path, make_record: Callable[..., RunRecord]
) -> None:
    for method in ("rosa", "lora"):
        save_record(make_record("task=rte", f"method={method}"), tmp_path / "results")
    done = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("imported by ")]
    imported = {line[2]: set(line[3:]) for line in lines}
    assert list(imported) == ["--help", "help", "ls", "show", "compare", "next", "tables"]
    assert imported["help"].isdisjoint({"hydra", "omegaconf", "numpy", "msgspec"})
    assert {"hydra", "msgspec"} <= imported["tables"]  # the list is one of modules
    assert imported["tables"].isdisjoint({"torch", "transformers", "datasets", "evaluate", "matplotlib", "scipy.stats"})


@pytest.mark.parametrize(("arguments", "word"), [
    (["task=cola", "rank=4"], "preparing task=cola rank=4"),
    (["plan", "rank=2,4"], "planning rank=2,4"),
])  # fmt: skip
def test_the_first_word_at_a_terminal_comes_before_any_library(arguments: list[str], word: str, tmp_path: Path) -> None:
    imported, said = modules(FIRST_WORD, *arguments, here=tmp_path)
    assert word in said
    assert "rosa_bench.cli.messages" in imported
    assert imported.isdisjoint({"torch", "transformers", "hydra", "omegaconf", "numpy"})
