"""Write files and folders so that nothing on disk is ever half-written or lost."""

import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rosa_bench.system.errors import UserError
from rosa_bench.system.leftovers import (
    held,
    name_without_temporary,
    remove_abandoned,
    temporary_beside,
    temporary_folder,
)

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
        _sync_at(path.parent)


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


def cache_folder() -> Path:
    """Return the folder for downloaded models and tokenised data.

    It is ``ROSA_BENCH_CACHE`` if set, else ``rosa_bench`` in the user's cache folder. Raises `OSError` if that is in a
    home folder that the user does not have, as in many containers.
    """
    chosen, users = os.environ.get("ROSA_BENCH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen) if chosen else Path(users or "~/.cache") / "rosa_bench"
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "the user has no home folder", str(folder)) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is deleted if it fails.

    The files are synced before the folder replaces an existing ``path``. A crash leaves either the old or the new one.
    Files that a library makes private, as safetensors does, get permissions by the umask, as the others have. A link at
    ``path`` is replaced, and what it leads to stays. An `OSError` names a path.
    """
    with named(path), temporary_folder(path) as temporary:
        yield temporary
        by_umask = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with suppress(OSError):  # some shares refuse it
                    file.chmod(by_umask)
                _sync_at(file)
        if os.path.lexists(path):
            earlier = _earlier(path)
            _delete(earlier)  # left by a process that was killed
            path.rename(earlier)
            try:
                temporary.rename(path)
            except BaseException:
                earlier.rename(path)
                raise
            _delete(earlier)
        else:
            temporary.rename(path)
        _sync_at(path.parent)


def _earlier(path: Path) -> Path:
    """Return where `new_folder` puts an existing folder for a moment."""
    return path.with_name(f".{path.name}.earlier")


def _delete(path: Path) -> None:
    """Delete a folder, a file or a link, if there is one. What a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_replaceable(folder: Path, *, overwrite: bool, marks: Collection[str], remedy: str) -> None:
    """Raise `UserError` if ``folder`` exists, unless ``overwrite`` and it is empty or has a file named in ``marks``.

    `new_folder` deletes what it replaces, so a folder with anything else, such as the user's home, is never replaced.
    A folder that a killed process was about to replace is put back first.
    """
    if not os.path.lexists(folder) and os.path.lexists(_earlier(folder)):
        _earlier(folder).rename(folder)
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise UserError(f"{folder} exists already; {remedy}")
    replaceable = folder.is_dir() and not folder.is_symlink()
    if not replaceable or (any(folder.iterdir()) and not any((folder / mark).is_file() for mark in marks)):
        raise UserError(f"{folder} is not a folder that was written before, so it is not replaced; use another one")


def remove_unfinished(path: Path) -> None:
    """Delete temporary folders that `new_folder` left beside ``path`` in processes that were killed.

    Call it only when no other process writes to ``path``.
    """
    for leftover in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync(handle: int) -> None:
    """Flush an open file or folder to disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def _sync_at(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of the concatenated contents of ``paths``, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def package_folder() -> Path:
    """Return the folder of the ``rosa_bench`` package."""
    return Path(sys.modules[__name__.partition(".")[0]].__path__[0])


def shipped(inside: str, in_tree: str) -> Path:
    """Return a data folder of the package: ``inside`` an installed package, or ``in_tree`` of a source checkout."""
    package = package_folder()
    return package / inside if (package / inside).is_dir() else package.parent / in_tree


def check_writable(key: str, folder: Path, *inside: Path, known: set[Path] | None = None) -> None:
    """Create ``folder``. Raise `UserError`, naming the setting ``key``, if it cannot be written to.

    Folders ``inside`` it, which a run will create, are checked too: the part of each that exists must be writable.
    Folders in ``known`` have been written to before, and those that are found to be writable are added.
    """
    known = set() if known is None else known
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *inside):
            existing = next(parent for parent in (place, *place.parents) if os.path.lexists(parent))
            if existing not in known:
                _try_writing(existing)
                known.add(existing)
    except OSError as error:
        where = error.filename or folder
        at = "" if Path(where) == folder else f": {where}"
        raise UserError(
            f"{key}={folder} cannot be written to{at} ({error.strerror}); choose another folder with {key}="
        ) from error


def _try_writing(folder: Path) -> None:
    """Write a small file and delete it. A failure names ``folder``."""
    probe = temporary_beside(folder / "probe")
    try:
        with probe.open("xb") as file:
            file.write(bytes(4096))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        with suppress(OSError):
            probe.unlink()
