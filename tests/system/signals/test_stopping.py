import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rosa_bench.system.errors import PreemptedError, StoppedError
from rosa_bench.system.signals.stopping import SIGNALS, stop_signals_deferred, stop_signals_raise
from rosa_bench.system.signals.workers import workers_end_with_us


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put every handler back, and start from Python's own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_system_stops_the_program_with_an_exception(number: signal.Signals) -> None:
    with pytest.raises(PreemptedError, match=f"stopped by {number.name}"), stop_signals_raise():
        send(number)


def test_ctrl_c_is_no_preemption() -> None:
    with pytest.raises(StoppedError, match="stopped from the keyboard") as caught, stop_signals_raise():
        send(signal.SIGINT)
    assert not isinstance(caught.value, PreemptedError)


class Deleted:
    """Receives a signal while it is being deleted, where Python drops every exception."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self) -> None:
        send(self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_not_lost_while_an_object_is_deleted(number: int) -> None:
    with pytest.raises(StoppedError, match="stopped"), stop_signals_raise():
        Deleted(number)
        time.sleep(10)
        pytest.fail("the signal was lost")


def test_another_error_while_an_object_is_deleted_is_reported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    with stop_signals_raise():
        Faulty()
    assert [one.exc_type for one in reported] == [ValueError]
    assert sys.unraisablehook == reported.append


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_deferred_and_remembered(number: int) -> None:
    with stop_signals_deferred() as asked:
        assert asked.number is None
        send(number)
        assert asked.number == number


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(StoppedError, match="twice"), stop_signals_deferred():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("waited")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with stop_signals_raise(), stop_signals_deferred() as asked:
        send(signal.SIGHUP)
        assert asked.number is None


WORKER = """
import os, signal, sys, time
from rosa_bench.system.signals import workers
from rosa_bench.system.signals.workers import ending_with_parent
workers.BETWEEN_S = 0.1
between = sys.argv[1] == "between"
if between and os.fork():  # the launcher's own process, which is between the two
    os.wait()
    sys.exit()
with ending_with_parent(between=between):
    print("works", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("saved", flush=True)
"""


@pytest.mark.parametrize("place", ["child", "between"])
def test_a_sweep_waits_until_a_worker_has_saved_its_work(place: str, tmp_path: Path) -> None:
    """Also until one has that another process started, as Ray's are."""
    written, seen = tmp_path / "written", []
    with (
        pytest.raises(StoppedError, match="stopped from the keyboard; the same command continues"),
        workers_end_with_us(),
        written.open("w") as file,
        subprocess.Popen([sys.executable, "-c", WORKER, place], stdout=file) as worker,
    ):
        while "works" not in written.read_text():
            assert worker.poll() is None
            time.sleep(0.02)
        try:
            send(signal.SIGINT)
        finally:
            seen.append(written.read_text())
    assert seen == ["works\nsaved\n"]


def test_a_library_that_replaces_the_exception_of_a_signal_does_not_change_how_a_sweep_ends() -> None:
    with pytest.raises(PreemptedError, match="stopped by SIGTERM; the same command continues"), workers_end_with_us():
        try:
            send(signal.SIGTERM)
        except StoppedError:
            raise KeyboardInterrupt from None  # as Ray does
