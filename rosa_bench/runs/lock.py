"""A lock that stops two processes from making the same run at once.

The lock is an ``flock`` on a file that names its holder. The kernel releases it when the holder dies, however that
happens, so an abandoned lock is free at once, whatever its file says. A file that names another machine is respected
even if it is not locked, because some shares keep ``flock`` to one machine. Where there is no ``flock`` at all, the
existence of the file is the lock (`filelock.SoftFileLock`).
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import named

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EBADF)  # answers of shares without flock
EMPTY_S = 60  # a file lock without content is this old only if its maker was killed before writing into it


class BusyError(UserError):
    """Another process is making the same run."""


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs. The file names this process and machine.

    Raises `BusyError` if the lock is held, and `UserError` if something else is in its place.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(path, what)
    if handle is None:
        with _held_by_existence(path, what):
            yield
        return
    try:
        yield
    finally:
        _release(path, handle)


def _acquired(path: Path, what: str) -> int | None:
    """Return a handle of the locked file, or None where there are no locks."""
    while True:
        try:
            handle, created = _opened(path)
        except PermissionError as error:
            if not os.path.lexists(path):
                raise
            raise _busy(path, what, _text(path)) from error  # another user's, perhaps left by a killed process
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle):
                _take(path, handle, what)
                return handle
            os.close(handle)  # its holder removed it between our opening and our locking it
        except BlockingIOError as error:
            owner = _read(handle)
            os.close(handle)
            raise _busy(path, what, owner) from error
        except OSError as error:
            if created or _is_abandoned(handle):
                path.unlink(missing_ok=True)
            os.close(handle)
            if error.errno not in NO_LOCKS:
                raise
            return None
        except BaseException:
            os.close(handle)
            raise


def _opened(path: Path) -> tuple[int, bool]:
    """Open or create the lock file, and return whether it is new. Raises `UserError` if it is not a regular file."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK  # so that a pipe does not make us wait for its other end
    while True:
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        if not stat.S_ISREG(_mode(path)):
            raise _no_file(path)
        with suppress(FileNotFoundError):  # removed in the meantime
            return os.open(path, flags), False


def _mode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.lstat().st_mode
    return stat.S_IFREG


def _no_file(path: Path) -> UserError:
    return UserError(f"{path} is in the place of a lock and is not a regular file; remove it")


def _is_at(path: Path, handle: int) -> bool:
    """Return whether ``path`` still is the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(handle))
    return False


def _take(path: Path, handle: int, what: str) -> None:
    """Write ourselves into a file that we have locked. Raises `BusyError` if it names another machine."""
    if _host(owner := _read(handle)) not in ("", socket.gethostname()):
        raise _busy(path, what, owner)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n{socket.gethostname()}\n".encode(), 0)


def _release(path: Path, handle: int) -> None:
    """Remove the file while it is locked, so that whoever opened it finds it gone. Never raises."""
    with suppress(OSError):
        if _is_at(path, handle):
            path.unlink()
    with suppress(OSError):
        os.close(handle)


def _is_abandoned(handle: int) -> bool:
    """Return whether a file lock is empty and too old to be still in the making."""
    state = os.fstat(handle)
    return state.st_size == 0 and time.time() - state.st_mtime > EMPTY_S


@contextmanager
def _held_by_existence(path: Path, what: str) -> Iterator[None]:
    lock = SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise _busy(path, what, _text(path)) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def holder(path: Path) -> str:
    """Return a readable description of the process that holds a lock."""
    return described(_text(path))


def described(owner: str) -> str:
    """Return the content of a lock file in words."""
    lines = owner.splitlines()
    if len(lines) < 2:
        return "another process"
    host = _host(owner)
    return f"process {lines[0]} on {'this machine' if host == socket.gethostname() else host}"


def _busy(path: Path, what: str, owner: str) -> BusyError:
    return BusyError(f"{what} is being run by {described(owner)}; if that process is gone, remove {path}")


def _host(owner: str) -> str:
    """Return the machine named in a lock file, or an empty string."""
    lines = owner.splitlines()
    return lines[1].partition("?")[0] if len(lines) > 1 else ""  # in a container, its process namespace follows


def _read(handle: int) -> str:
    return os.pread(handle, 1000, 0).decode("utf-8", errors="replace")


def _text(path: Path) -> str:
    """Return the start of a lock file; an empty string if it has just been removed or is not a file."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _read(handle)
        finally:
            os.close(handle)
    return ""
