"""Writing files so that nothing on disk is ever half-written or lost."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rosa_bench
from rosa_bench.system.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path``: a temporary file beside it, synced, then renamed over it.

    A reader sees the old file or the new one, never a part; a crash leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a shared results folder from its other readers
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where pulled models and tokens are kept: ``ROSA_BENCH_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get("ROSA_BENCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rosa_bench"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Its files are synced before it takes the place of an earlier ``path``; a crash leaves the one or the other.
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
            shutil.rmtree(path.with_name(f".{path.name}.earlier"), ignore_errors=True)  # of a process that was killed
            path.rename(earlier := path.with_name(f".{path.name}.earlier"))
            temporary.rename(path)
            shutil.rmtree(earlier)
        else:
            temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what `new_folder` left of ``path`` in processes that were killed. For who alone writes there."""
    for left in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(left)


def _sync(path: Path) -> None:
    """Make the system put a file, or a folder's list of names, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(*paths: Path) -> str:
    """SHA-256 of the bytes of ``paths``, one after another, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def package_folder() -> Path:
    """Return the folder of the package ``rosa_bench`` itself."""
    return Path(rosa_bench.__path__[0])


def shipped(inside: str, in_tree: str) -> Path:
    """A folder that travels with the package: ``inside`` an installed one, else ``in_tree`` of the source tree."""
    package = package_folder()
    return package / inside if (package / inside).is_dir() else package.parent / in_tree


def check_writable(key: str, folder: Path) -> None:
    """Make ``folder``, or raise `UserError` naming the setting ``key`` when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be written to ({error.strerror}); choose another folder with {key}="
        ) from error
