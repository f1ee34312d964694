"""Write a file so that it is never half-written: a reader sees the old one or the new one."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rosa_bench.system.files.leftovers import held, name_without_temporary, remove_abandoned, temporary_beside

# What file systems answer that cannot sync or lock at all, as many network shares. A failing disk answers otherwise.
NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EBADF)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` through a temporary file that is synced and then renamed.

    A reader sees either the old file or the new one, never part of one. A crash leaves the old file. An `OSError` names
    ``path``.
    """
    written = content.encode() if isinstance(content, str) else content
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        temporary = temporary_beside(path)
        try:
            with temporary.open("xb") as file, held(file.fileno()):  # permissions by the umask: chmod may be refused
                file.write(written)
                file.flush()
                sync(file.fileno())
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_at(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add ``path`` to an `OSError` from the block, because a failed write does not name its file.

    An error about a temporary file names the file that it would become, because the user knows of no other.
    Libraries written in Rust, such as safetensors, hide the system's error in a message; it becomes an `OSError` too.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        elif (name := name_without_temporary(str(error.filename))) != str(error.filename):
            error.filename, error.filename2 = name, None
        raise
    except Exception as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def sync(handle: int) -> None:
    """Flush an open file or folder to disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def sync_at(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)
