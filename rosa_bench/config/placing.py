"""Put the files of chosen groups in place: what Hydra composes, in a fraction of its time."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from rosa_bench.config.folder import conf_folder, files_in, own_folder

CHOSEN: tuple[str, ...] = ("task", "model", "method", "protocol")  # the groups that a run picks by name
OF_HYDRA = ("defaults:", "@package")  # a file with either is composed by Hydra


class Placing:
    """Composes choices of a task, a model, a method and a protocol. Hydra must be initialised.

    Hydra composes each task once, because its file chooses others; the files of the other groups are then put in
    place. What was read once is kept, so changed files need a new instance.
    """

    def __init__(self) -> None:
        self._by_hydra: dict[tuple[str, ...], dict[str, Any]] = {}
        self._read: dict[Path, dict[str, Any]] = {}
        self._files = cache(files_in)
        self._placed = cache(self._put_in_place)

    def composed(self, names: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the settings by group, with references unresolved; None if only Hydra knows these choices.

        What ``names`` leaves out is what the task, or else conf/config.yaml, chooses. Callers must not change the
        result: parts of it are shared.
        """
        if not all(group in CHOSEN and name in self._files(group) for group, name in names.items()):
            return None
        whole = dict(self._hydras(tuple(f"task={name}" for group, name in names.items() if group == "task")))
        for group, name in names.items():
            if group == "task":
                continue
            placed = self._placed(group, name)
            if placed is None or whole[group] != self._placed(group, str(whole[group].get("name"))):
                return self._hydras(tuple(f"{group}={name}" for group, name in names.items()))
            whole[group] = placed
        return whole

    def _put_in_place(self, group: str, name: str) -> dict[str, Any] | None:
        """Return the settings of a group whose file nothing else changes; None if Hydra must compose them."""
        path, above = self._files(group).get(name), self._file(conf_folder() / "config.yaml")
        if path is None or any(word in path.read_text(encoding="utf-8") for word in OF_HYDRA):
            return None
        return {**above.get(group, {}), **self._file(path)}

    def _hydras(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        if overrides not in self._by_hydra:
            self._by_hydra[overrides] = plain(hydra.compose("config", overrides=list(overrides)))
        return self._by_hydra[overrides]

    def _file(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            self._read[path] = plain(OmegaConf.load(path))
        return self._read[path]


def placing() -> Placing:
    """Return what this process has composed so far. It starts again when files in the user's folder change."""
    own = own_folder()
    paths = sorted(own.rglob("*.yaml")) if own else ()
    return _placing(own, tuple((path, path.stat().st_mtime_ns) for path in paths))


@cache
def _placing(_own: Path | None, _files: tuple[tuple[Path, int], ...]) -> Placing:
    return Placing()


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """Return a configuration as plain values, with references unresolved."""
    return OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportReturnType]
