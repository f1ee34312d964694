"""The worker processes of a sweep end with the process that started them, each with a checkpoint.

The parent names itself and a folder in an environment variable, which its children inherit. A worker puts its number
into that folder, so that the parent can pass a stop signal on and wait. A worker that takes it out again is done. A
worker also watches its parent, which may be killed without a chance to say so.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rosa_bench.system.errors import StoppedError
from rosa_bench.system.files.leftovers import temporary_folder
from rosa_bench.system.signals.stopping import handling, stop_signals_raise, stopped_by

VARIABLE = "ROSA_BENCH_SWEEP"
STATUS = 143
CONTINUES = "; the same command continues"
POLL_S = 0.2
BETWEEN_S = 10.0  # within which a worker is ended that has said that it is done


@contextmanager
def workers_end_with_us() -> Iterator[None]:
    """Stop the workers that are started inside the block when this process is asked to stop, and wait for them."""
    stopping: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not stopping:  # the second signal does not wait
            stopping.append(number)
            running = [pid for pid in map(int, os.listdir(folder)) if _is_running(pid)]  # noqa: PTH208 - names suffice
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            while any(Path(folder, str(pid)).exists() and _is_running(pid) for pid in running):
                time.sleep(0.02)
        raise stopped_by(number, CONTINUES)

    with temporary_folder(Path(tempfile.gettempdir(), "rosa-bench-sweep")) as folder:
        os.environ[VARIABLE] = f"{os.getpid()} {folder}"
        try:
            with handling(stop):
                yield
        except KeyboardInterrupt as error:
            if stopping and not isinstance(error, StoppedError):  # Ray raises one of its own instead
                raise stopped_by(stopping[0], CONTINUES) from error
            raise
        finally:
            del os.environ[VARIABLE]


@contextmanager
def ending_with_parent(*, between: bool = False) -> Iterator[None]:
    """Do one job of a sweep in a worker process, which ends when it or its parent is asked to stop, or has died.

    ``between`` says that a process of the launcher's is between the two, as Ray's is, and ends when the parent does.
    """
    parent, _, folder = os.environ.get(VARIABLE, "").partition(" ")
    if parent == str(os.getpid()) or not parent:  # not a worker: the sweep itself makes its jobs
        yield
        return
    if not between and os.getppid() != int(parent):
        os._exit(STATUS)
    _enrol(Path(folder), os.getppid())
    try:
        with stop_signals_raise():
            yield
    except StoppedError:
        if between:  # the process between would report that this one ends, and start another
            Path(folder, str(os.getpid())).unlink(missing_ok=True)
            time.sleep(BETWEEN_S)
        _end()


_enrolled = threading.Event()


def _enrol(folder: Path, parent: int) -> None:
    """Make this worker known to its parent, and start to watch it. Done once in a process."""
    if _enrolled.is_set():
        return
    _enrolled.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent passes it on as SIGTERM
    signal.signal(signal.SIGTERM, lambda _number, _frame: _end())  # between two jobs
    with suppress(OSError):
        (folder / str(os.getpid())).touch()
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="watching the parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _end() -> NoReturn:
    """End this worker at once: whoever waited for its answer is gone or about to go."""
    os._exit(STATUS)


def _is_running(pid: int) -> bool:
    """Return whether a process runs. A child of ours that has ended may not have been waited for."""
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
