"""Put the files of chosen groups in place: what Hydra composes, in a fraction of its time."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from rosa_bench.config.files.folder import conf_folder, files_in, own_folder
from rosa_bench.config.files.reading import read_settings

CHOSEN: tuple[str, ...] = ("task", "model", "method", "protocol")  # the groups that a run picks by name
OF_HYDRA = ("defaults:", "@package")  # a file with either is composed by Hydra
TRACKED = "logger"  # one more, which no task changes
PRESETS = ("+experiment", "+launch")  # their files add values, and choose what the command line leaves out
GLOBAL = "# @package _global_\n"  # the first line of such a file: its values are those of a run
OVERRIDES = {f"override /{group}": group for group in CHOSEN}  # how it chooses
LAUNCHER = "override /hydra/launcher"  # of Hydra's own settings, which are not a run's


class Placing:
    """Composes choices of presets, a task, a model, a method and a protocol. Hydra must be initialised.

    A task's file chooses a recipe, and that a model. The files of the other groups are then put in place, and the
    presets' values come last. Hydra composes what is not written in the package's own forms, as a task of the user's
    may be. What was read once is kept, so changed files need a new instance.
    """

    def __init__(self) -> None:
        self._by_hydra: dict[tuple[str, ...], dict[str, Any]] = {}
        self._read: dict[Path, dict[str, Any]] = {}
        self._defaults = cache(lambda: plain(OmegaConf.create(ConfigStore.instance().load("settings.yaml").node)))
        self._files = cache(files_in)
        self._placed = cache(self._put_in_place)
        self._tasks = cache(self._task)
        self._presets = cache(self._preset)

    def composed(self, names: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the settings by group, with references unresolved; None if only Hydra knows these choices.

        ``names`` has a name for some of `CHOSEN`, `TRACKED` and `PRESETS`. What it leaves out is what the presets, the
        task, or else conf/config.yaml choose. Callers must not change the result: parts of it are shared.
        """
        chosen = {group: name for group, name in names.items() if group not in PRESETS}
        values: dict[str, Any] = {}
        for group in (group for group in names if group in PRESETS):
            if (found := self._presets(group.removeprefix("+"), names[group])) is None:
                return None
            chosen, values = found[0] | chosen, merged(values, found[1])
        below = self._chosen(chosen)
        return None if below is None else merged(below, values)

    def _chosen(self, names: Mapping[str, str]) -> dict[str, Any] | None:
        if not all(group in (*CHOSEN, TRACKED) and name in self._files(group) for group, name in names.items()):
            return None
        whole = dict(self._tasks(names.get("task")))
        for group, name in names.items():
            if group == "task":
                continue
            placed = self._placed(group, name)
            if placed is None or whole[group] != self._placed(group, str(whole[group].get("name"))):
                return self._hydras(tuple(f"{group}={name}" for group, name in names.items()))
            whole[group] = placed
        return whole

    def _preset(self, group: str, name: str) -> tuple[dict[str, str], dict[str, Any]] | None:
        """Return the groups that a preset of the package chooses, and its values; None if its file has another form."""
        path = self._files(group).get(name)
        if path is None or own_folder() is not None or not path.read_text(encoding="utf-8").startswith(GLOBAL):
            return None
        chosen: dict[str, str] = {}
        values: dict[str, Any] = {}
        own = dict(self._file(path))
        for one in own.pop("defaults"):
            match one:
                case "_self_":
                    continue
                case str(other) if found := self._presets(group, other):
                    chosen, values = found[0] | chosen, merged(values, found[1])
                case dict() if one.keys() <= OVERRIDES.keys():
                    chosen |= {OVERRIDES[key]: choice for key, choice in one.items()}
                case dict() if one.keys() == {LAUNCHER}:
                    continue
                case _:
                    return None
        own.pop("hydra", None)
        return chosen, merged(values, own)

    def _put_in_place(self, group: str, name: str) -> dict[str, Any] | None:
        """Return the settings of a group whose file nothing else changes; None if Hydra must compose them."""
        path, above = self._files(group).get(name), self._file(conf_folder() / "config.yaml")
        if path is None or any(word in path.read_text(encoding="utf-8") for word in OF_HYDRA):
            return None
        return {**above.get(group, {}), **self._file(path)}

    def _task(self, name: str | None) -> dict[str, Any]:
        """Return what a task, by default that of conf/config.yaml, is composed to together with what it chooses."""
        above = self._file(conf_folder() / "config.yaml")
        chosen = {group: choice for one in above["defaults"] if isinstance(one, dict) for group, choice in one.items()}
        found = self._parts(chosen | ({} if name is None else {"task": name}))
        if found is None:
            return self._hydras(() if name is None else (f"task={name}",))
        own = {key: value for key, value in above.items() if key not in ("defaults", "hydra")}
        whole = self._defaults()
        for part in (own, *found):
            whole = merged(whole, part)
        return whole

    def _parts(self, chosen: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Return what Hydra would merge for these choices, in its order; None if a file has another form."""
        path = self._files("task")[chosen["task"]]
        if own_folder() is not None:  # its files may take the place of any of the package's
            return None
        match self._file(path):
            case {"defaults": [{"/recipe": str(recipe)}], **task}:
                recipes, picked = [], dict(chosen)
            case _:
                return None
        while recipe is not None:
            content = dict(self._file(conf_folder() / "recipe" / f"{recipe}.yaml"))
            recipe = None
            for one in content.pop("defaults"):
                match one:
                    case str(below):
                        recipe = below
                    case {"/model": str(model)}:
                        picked["model"] = model
                    case {"override /protocol": str(protocol)}:
                        picked["protocol"] = protocol
                    case _:
                        return None
            recipes.insert(0, content)
        files = {
            group: self._file(self._files(group)[name])
            for group, name in picked.items()
            if group != "task" and "hydra" not in group
        }
        if any("defaults" in content for content in files.values()):
            return None
        before = [{group: files.pop(group)} for group in ("optimizer", "protocol", "model")]
        return [*before, *recipes, {"task": task}, *({group: content} for group, content in files.items())]

    def _hydras(self, overrides: tuple[str, ...]) -> dict[str, Any]:
        if overrides not in self._by_hydra:
            self._by_hydra[overrides] = plain(hydra.compose("config", overrides=list(overrides)))
        return self._by_hydra[overrides]

    def _file(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            self._read[path] = read_settings(path)
        return self._read[path]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two mappings as one. Where both have a mapping, these are merged too; else ``above`` counts."""
    both = dict(below)
    for key, value in above.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


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
    return OmegaConf.to_container(config, resolve=False)  # pyrefly: ignore[bad-return]
