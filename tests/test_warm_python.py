import signal
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(("program", "status"), [
    ("raise SystemExit(3)", 3), ("pass", 0), ("1 / 0", 1), ("raise SystemExit('why')", 1),
    ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL), ("import os; os.abort()", -signal.SIGABRT),
])  # fmt: skip
def test_a_command_ends_as_it_does_in_a_python_of_its_own(warm_python: list[str], program: str, status: int) -> None:
    assert subprocess.run([*warm_python, "-c", program], capture_output=True, check=False).returncode == status


def test_a_command_has_the_folder_environment_and_streams_of_who_asks(warm_python: list[str], tmp_path: Path) -> None:
    program = """
import os, sys
print(os.getcwd(), os.environ["WORD"], "HOME" in os.environ, sys.stdin.read(), *sys.argv, __name__)
print("wrong", file=sys.stderr)
"""
    done = subprocess.run(
        [*warm_python, "-c", program, "--flag", "a b"], cwd=tmp_path, env={"WORD": "grün"}, input="given", text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path} grün False given -c --flag a b __main__\n"
    assert done.stderr == "wrong\n"


def test_files_and_modules_run_as_by_python(warm_python: list[str], tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    (tmp_path / "program.py").write_text("import sys, beside\nprint(beside.WORD, __name__, *sys.argv[1:])\n")
    for command in (["program.py", "x"], ["-m", "program", "x"]):
        done = subprocess.run([*warm_python, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "beside __main__ x\n"


WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked") or sys.exit(5))
print("waiting", flush=True)
time.sleep(60)
print("outlived")
"""


@pytest.mark.parametrize(("number", "status", "said"), [
    (signal.SIGTERM, 5, "asked\n"), (signal.SIGKILL, -signal.SIGKILL, ""),
])  # fmt: skip
def test_a_signal_arrives_and_no_command_outlives_who_asked(
    warm_python: list[str], number: int, status: int, said: str
) -> None:
    with subprocess.Popen([*warm_python, "-c", WAITS], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        assert asking.stdout.readline() == "waiting\n"
        asking.send_signal(number)
        assert asking.stdout.read() == said  # which ends when the command has ended
    assert asking.returncode == status
