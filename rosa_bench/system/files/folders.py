"""Write a folder so that it is never half-written, and replace only what may be replaced."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import named, sync_at
from rosa_bench.system.files.leftovers import temporary_folder


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
                sync_at(file)
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
        sync_at(path.parent)


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


def _earlier(path: Path) -> Path:
    """Return where `new_folder` puts an existing folder for a moment."""
    return path.with_name(f".{path.name}.earlier")


def _delete(path: Path) -> None:
    """Delete a folder, a file or a link, if there is one. What a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
