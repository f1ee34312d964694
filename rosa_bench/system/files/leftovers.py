"""Temporary files and folders of writers that may be killed: named so that they are found, and held while in use.

A writer holds an ``flock`` on what it writes, which the kernel releases when the writer dies. So anyone can tell an
abandoned file from one in use, on any machine that shares the folder. File systems without locks go by age.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDING = ".rosa-bench-part"  # nobody else names a file so: what is found by it is deleted
GRACE_S = 60  # a writer creates its file and locks it a moment later; no abandoned file is younger than this
WITHOUT_LOCKS_S = 86_400  # no writer takes longer than this


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of ``path``, on the same file system, for `remove_abandoned` to find."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ENDING}")


def name_without_temporary(path: str) -> str:
    """Return a path with the final names in place of those of `temporary_beside`.

    >>> name_without_temporary(f"folder/.model.0123456789ab{ENDING}/config.json")
    'folder/model/config.json'
    """
    return re.sub(rf"\.([^/]+)\.[0-9a-f]{{12}}{re.escape(ENDING)}(?=/|$)", r"\1", path)


@contextmanager
def held(handle: int) -> Iterator[None]:
    """Mark an open file or folder as in use, where the file system can."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``, with permissions by the umask, and delete it at the end if it still exists.

    What killed processes left in the same folder is deleted first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    temporary = temporary_beside(path)
    temporary.mkdir()
    handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with held(handle):
            yield temporary
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Delete temporary files and folders in ``folder`` whose writers have died. Never raises."""
    with suppress(OSError):
        now = None
        for path in folder.glob(f".*{ENDING}"):
            now = now or _now(folder)
            with suppress(OSError):
                if _is_abandoned(path, now):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path, now: float) -> bool:
    age_s = now - path.lstat().st_mtime
    if age_s < GRACE_S:
        return False
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return age_s > WITHOUT_LOCKS_S
    finally:
        os.close(handle)
    return True


def _now(folder: Path) -> float:
    """Return the time by the clock of the machine that keeps the folder, which may differ from ours."""
    probe = temporary_beside(folder / "now")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
