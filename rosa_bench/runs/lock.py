"""No two processes make the same run at once."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

from rosa_bench.system.errors import UserError


class BusyError(UserError):
    """Another process is at it."""


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, which names this process and machine, while the block runs.

    A lock whose process is no longer there, on this machine, is taken over. Raises `BusyError` for one that is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(f"{what} is being made by {holder(path)}; if that is no more, remove {path}") from error
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Who holds a lock, for a person to read."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if len(lines) < 2:
        return "another process"
    pid, host = lines[0], lines[1].partition("?")[0]  # in a container, its process namespace follows
    return f"process {pid} on {'this machine' if host == socket.gethostname() else host}"
