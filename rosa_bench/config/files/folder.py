"""The folders with the configuration files: the package's, and one of the user's own.

Imports neither torch nor transformers, so that a wrong setting is reported at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.places import shipped

OWN = "ROSA_BENCH_CONFIG_DIR"  # in the environment, so that the processes of a sweep have it too


def conf_folder() -> Path:
    """Return the package's folder: inside the installed package, or at the top of the source tree."""
    return shipped("conf", "conf")


def given_folder() -> Path | None:
    """Return the user's folder, given by ``--config-dir``, whether or not it exists."""
    given = os.environ.get(OWN)
    return Path(given) if given else None


def own_folder() -> Path | None:
    """Return the user's folder, given by ``--config-dir``. Raises `UserError` if it is not a folder."""
    given = given_folder()
    if given is not None and not given.is_dir():
        raise UserError(f"--config-dir={given} is not a folder; rosa-bench models add makes one")
    return given


def groups() -> list[str]:
    """Return the names of the configuration groups, in order, without the folder of Hydra's own settings."""
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name != "hydra")


def files_in(group: str, *, own: Path | None = None) -> dict[str, Path]:
    """Return the yaml files of a group by name, in order. The package's come before the user's, as for Hydra.

    ``own`` is the user's folder, by default that of ``--config-dir``.
    """
    folders = [folder for folder in (own or own_folder(), conf_folder()) if folder is not None]
    found = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


@contextmanager
def config_dir(folder: str | None) -> Iterator[None]:
    """Use a folder of the user's own inside the block, if one is given."""
    before = os.environ.get(OWN)
    if folder is not None:
        os.environ[OWN] = str(Path(folder).expanduser().absolute())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(OWN, None)
        else:
            os.environ[OWN] = before
