import errno
import io
import os
import sys

import pytest

from rosa_bench.cli.messages import output_arrived
from rosa_bench.system.console import Unfailing, lost_output, output_never_fails
from rosa_bench.system.errors import UserError


class Failing(io.StringIO):
    """A stream that fails at every write."""

    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


REASONS = (errno.EPIPE, errno.ENOSPC, errno.EIO)


@pytest.mark.parametrize("reason", REASONS)
def test_output_that_is_lost_never_raises_and_is_remembered(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(OSError(reason, os.strerror(reason))))
    with output_never_fails():
        assert lost_output() is None
        print("one")
        print("two", flush=True)
        lost = lost_output()
        assert lost is not None and lost.errno == reason
        with pytest.raises(SystemExit if reason == errno.EPIPE else UserError):
            output_arrived()
    assert isinstance(sys.stdout, Failing)


def test_output_that_arrives_is_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    with output_never_fails():
        print("ä", end="")
        output_arrived()
    assert capsys.readouterr().out == "ä"


def test_a_program_without_output_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with output_never_fails():
        print("one")
        assert lost_output() is None


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    kept = io.BytesIO()
    stream = Unfailing(io.TextIOWrapper(kept, encoding="ascii"))
    stream.write("a ± b\n")
    stream.flush()
    assert (kept.getvalue(), stream.lost) == (b"a \\xb1 b\n", None)
