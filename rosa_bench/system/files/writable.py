"""Check that a folder can be written to before any work starts."""

import os
from contextlib import suppress
from pathlib import Path

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.leftovers import temporary_beside


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
