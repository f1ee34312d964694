"""Folders that the program has by itself: its cache, the package, and what is shipped with it."""

import errno
import os
import sys
from pathlib import Path


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


def package_folder() -> Path:
    """Return the folder of the ``rosa_bench`` package."""
    return Path(sys.modules[__name__.partition(".")[0]].__path__[0])


def shipped(inside: str, in_tree: str) -> Path:
    """Return a data folder of the package: ``inside`` an installed package, or ``in_tree`` of a source checkout."""
    package = package_folder()
    return package / inside if (package / inside).is_dir() else package.parent / in_tree
