"""Signals that ask the program to stop: Ctrl-C, SIGTERM, and SIGHUP when the terminal is closed.

Everywhere but in training, they end the program at once, by an exception. Training defers them to the end of a step, so
that it can save a checkpoint; a second Ctrl-C does not wait.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rosa_bench.system.errors import PreemptedError, StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]
AGAIN_S = 0.01  # until a signal is sent again whose exception was lost


def stopped_by(number: int, rest: str = "") -> StoppedError:
    """Return the exception for a signal, with what else there is to say."""
    if number == signal.SIGINT:
        return StoppedError(f"stopped from the keyboard{rest}")
    return PreemptedError(f"stopped by {signal.Signals(number).name}{rest}")


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Turn a stop signal inside the block into an exception in the main thread: `StoppedError` or `PreemptedError`."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise stopped_by(number)

    with handling(stop):
        yield


class StopRequest:
    """The ``number`` of the signal by which somebody has asked to stop; None until then."""

    def __init__(self) -> None:
        self.number: int | None = None


@contextmanager
def stop_signals_deferred() -> Iterator[StopRequest]:
    """Defer stop signals inside the block. Yields the request, which gets the number of the first one.

    A second Ctrl-C raises `StoppedError` at once. Only the main thread receives signals, so this does nothing in any
    other thread.
    """
    request = StopRequest()

    def remember(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.number == signal.SIGINT:
            raise stopped_by(number, " twice, so without a new checkpoint")
        if request.number is None:
            request.number = number
        if number == signal.SIGINT:
            with suppress(OSError):  # print could meet itself half-way through a line
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    with handling(remember):
        yield request


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Let ``handler`` receive stop signals inside the block. A signal that the caller ignores, as nohup, stays so.

    Python drops an exception that the handler raises while an object is being deleted, as the parts of a regular
    expression are by the thousand. Such a signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    report, received = sys.unraisablehook, signal.SIGINT

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        handler(number, frame)

    def send_again(dropped: Any) -> None:
        if isinstance(dropped.exc_value, StoppedError):
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), received)).start()
        else:
            report(dropped)

    try:
        sys.unraisablehook = send_again
        for number in ours:
            signal.signal(number, receive)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number] or signal.SIG_DFL)
        sys.unraisablehook = report
