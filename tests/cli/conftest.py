import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra

from rosa_bench.cli.main import main
from rosa_bench.system.signals import stopping


class Outcome(NamedTuple):
    """How a command ended: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    def assert_one_line_error(self, *words: str) -> None:
        """Exit status 1, and one line for a person on stderr which has these words."""
        assert self.status == 1
        assert self.err.startswith("rosa-bench: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder: `results` and `outputs` go there by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # a run sets it: put back afterwards
    return tmp_path


@pytest.fixture
def rosa_bench(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """``rosa_bench("task=cola", ...)``: run that command line in this process.

    SIGTERM and SIGHUP are not its own: they end the tests, instead of failing the one that happens to run.
    """
    monkeypatch.setattr(stopping, "SIGNALS", (signal.SIGINT,))
    root, ours = logging.getLogger(), logging.getLogger("rosa_bench")
    before = (root.handlers[:], root.level, ours.level)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rosa-bench"])
        status = 0
        try:
            main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    yield call
    root.handlers[:] = before[0]  # Hydra replaces them
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def process(here: Path) -> Callable[..., Outcome]:
    """``process("rank=0", KEY="value")``: run that command line in a process of its own, with that environment.

    ``python`` is the command that starts Python, such as `warm_python`.
    """

    def call(*arguments: str, python: Sequence[str] = (sys.executable,), **environment: str) -> Outcome:
        command = [*python, "-m", "rosa_bench.cli.main", *arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(command, cwd=here, env=variables, capture_output=True, check=False)
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))  # in any encoding
        return Outcome(done.returncode, out, err)

    return call
