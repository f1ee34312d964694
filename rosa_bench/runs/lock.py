"""A lock that stops two processes from making the same run at once."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

from rosa_bench.system.errors import UserError


class BusyError(UserError):
    """Another process is making the same run."""


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs. The file names this process and machine.

    Takes over a lock of this machine whose process no longer exists. Raises `BusyError` if the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"{what} is being run by {holder(path)}; if that process is gone, remove {path}") from error
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Return a readable description of the process that holds a lock."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if len(lines) < 2:
        return "another process"
    pid, host = lines[0], lines[1].partition("?")[0]  # in a container, its process namespace follows
    return f"process {pid} on {'this machine' if host == socket.gethostname() else host}"
