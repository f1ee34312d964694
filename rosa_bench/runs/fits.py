"""Remember which methods fit which models, so that a plan of known pairs imports neither torch nor transformers.

Only what fits is remembered; why something does not fit is found anew each time. An entry is a hash of everything that
the answer depends on. All entries belong to one state of this package and its libraries, and are dropped with it.
"""

import hashlib
import json
import logging
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rosa_bench.models.weights.source import stored_configuration
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.files import cache_folder, sha256, write_atomic

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "peft")


class Fits:
    """The pairs of method and model that are known to fit. A file that cannot be read or written is done without."""

    def __init__(self) -> None:
        self.state = _state()
        self.known = self._read()
        self._new = False

    def __contains__(self, run: ResolvedRun) -> bool:
        return entry(run) in self.known

    def add(self, run: ResolvedRun) -> None:
        """Remember that the method of a run fits its model."""
        self._new = self._new or run not in self
        self.known.add(entry(run))

    def save(self) -> None:
        """Write what has been added."""
        if not self._new:
            return
        try:
            write_atomic(_path(), json.dumps({"state": self.state, "fits": sorted(self.known)}))
        except OSError as error:
            log.debug("the cache of shapes cannot be written: %s", error)

    def _read(self) -> set[str]:
        try:
            stored = json.loads(_path().read_bytes())
            return set(stored["fits"]) if stored["state"] == self.state else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()


def entry(run: ResolvedRun) -> str:
    """Return a hash of what decides whether a run's method fits its model: their settings, and the model's shapes."""
    config = run.config
    stored = stored_configuration(config.model, run.source)
    try:
        shapes = None if stored is None else sha256(stored)
    except OSError:
        shapes = ""
    return _hash(repr((config.task, config.model, config.method, run.source, shapes)))


def _path() -> Path:
    return cache_folder() / "fits.json"


@cache
def _state() -> str:
    """Return a hash of this package's files, the versions of its libraries, and the size of this machine's memory."""
    files = [(str(path), path.stat()) for path in sorted(PACKAGE.rglob("*.py"))]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    code: list[Any] = [(path, status.st_size, status.st_mtime_ns) for path, status in files]
    return _hash(repr((code, [_version(name) for name in LIBRARIES], memory)))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
