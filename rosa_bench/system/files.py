"""Write files and folders so that nothing on disk is ever half-written or lost."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rosa_bench.system.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` through a temporary file that is synced and then renamed.

    A reader sees either the old file or the new one, never part of one. A crash leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would lock others out of a shared results folder
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Return the folder for downloaded models and tokenised data.

    It is ``ROSA_BENCH_CACHE`` if set, else ``rosa_bench`` in the user's cache folder.
    """
    if chosen := os.environ.get("ROSA_BENCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rosa_bench"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is deleted if it fails.

    The files are synced before the folder replaces an existing ``path``. A crash leaves either the old or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            shutil.rmtree(
                path.with_name(f".{path.name}.earlier"), ignore_errors=True
            )  # left by a process that was killed
            path.rename(earlier := path.with_name(f".{path.name}.earlier"))
            temporary.rename(path)
            shutil.rmtree(earlier)
        else:
            temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Delete temporary folders that `new_folder` left beside ``path`` in processes that were killed.

    Call it only when no other process writes to ``path``.
    """
    for leftover in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
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


def check_writable(key: str, folder: Path) -> None:
    """Create ``folder``. Raise `UserError`, naming the setting ``key``, if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be written to ({error.strerror}); choose another folder with {key}="
        ) from error
