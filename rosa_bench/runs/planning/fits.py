"""Remember what is known about methods on models, so that neither torch nor transformers is imported to ask again.

An entry has a hash of everything that the answer depends on. All entries belong to one state of this package and its
libraries, and are dropped with it.
"""

import hashlib
import json
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.weights.source import Source, stored_configuration
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.files.digest import sha256
from rosa_bench.system.files.places import cache_folder
from rosa_bench.system.resources.device import machine_memory_bytes

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[2]
LIBRARIES = ("torch", "transformers", "peft")


class Remembered:
    """Answers by key, kept in ``<what>.json`` in the cache. A file that cannot be read or written is done without."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.state = _state()
        self.known = self._read()
        self._new = False

    def remember(self, key: str, answer: Any) -> None:
        """Keep an answer, a value of JSON, to be written by `save`."""
        self._new = self._new or key not in self.known
        self.known[key] = answer

    def save(self) -> None:
        """Write what has been added."""
        if not self._new:
            return
        try:
            write_atomic(self._path, json.dumps({"state": self.state, self.what: dict(sorted(self.known.items()))}))
        except OSError as error:
            log.debug("the cache of %s cannot be written: %s", self.what, error)

    @property
    def _path(self) -> Path:
        return cache_folder() / f"{self.what}.json"

    def _read(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._path.read_bytes())
            return dict(stored[self.what]) if stored["state"] == self.state else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


class Fits(Remembered):
    """The pairs of method and model that are known to fit. Why something does not fit is found anew each time."""

    def __init__(self) -> None:
        super().__init__("fits")

    def __contains__(self, run: ResolvedRun) -> bool:
        return entry(run.config, run.source) in self.known

    def add(self, run: ResolvedRun) -> None:
        """Remember that the method of a run fits its model."""
        self.remember(entry(run.config, run.source), True)


def entry(config: RunConfig, source: Source, *more: object) -> str:
    """Return a hash of a method's and a model's settings, of the model's shapes, and of ``more`` that matters."""
    stored = stored_configuration(config.model, source)
    try:
        shapes = None if stored is None else sha256(stored)
    except OSError:
        shapes = ""
    return _hash(repr((config.task, config.model, config.method, source, shapes, *more)))


@cache
def _state() -> str:
    """Return a hash of this package's files, the versions of its libraries, and the size of this machine's memory."""
    files = [(str(path), path.stat()) for path in sorted(PACKAGE.rglob("*.py"))]
    code: list[Any] = [(path, status.st_size, status.st_mtime_ns) for path, status in files]
    return _hash(repr((code, [_version(name) for name in LIBRARIES], machine_memory_bytes())))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
