"""From the arguments of a sweep to the configuration of each of its jobs, as Hydra composes them, for many at once."""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.config.folder import conf_folder

Overrides = tuple[str, ...]


@contextmanager
def composing() -> Iterator["Composer"]:
    """Inside the block configurations can be composed."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        yield Composer()


class Composer:
    """Composes jobs. What several share in configuration groups is composed once; single values are then put in."""

    def __init__(self) -> None:
        self.parser = OverridesParser.create()
        self.parsed = functools.cache(self.parser.parse_override)
        self._bases: dict[Overrides, DictConfig] = {}

    def expand(self, arguments: Sequence[str]) -> list[Overrides]:
        """The overrides of each job of a sweep, in Hydra's order; a preset's own come first."""
        parsed = self.parser.parse_overrides(list(arguments))
        fixed = [argument for argument, one in zip(arguments, parsed, strict=True) if not one.is_sweep_override()]
        composed = hydra.compose("config", overrides=fixed, return_hydra_config=True)
        preset = [f"{key}={value}" for key, value in (composed.hydra.sweeper.get("params") or {}).items()]
        [jobs] = BasicSweeper.split_arguments(self.parser.parse_overrides([*preset, *arguments]), max_batch_size=None)
        return [tuple(override for override in job if not override.startswith("hydra")) for job in jobs]

    def compose(self, overrides: Overrides) -> DictConfig:
        """The configuration of one job. Raises what Hydra and omegaconf raise for one that cannot be composed."""
        groups = tuple(override for override in overrides if not self._is_value(override))
        values = [override for override in overrides if self._is_value(override)]
        if groups not in self._bases:
            self._bases[groups] = hydra.compose("config", overrides=list(groups))
        raw = copy.deepcopy(self._bases[groups])
        try:
            for value in values:
                one = self.parsed(value)
                OmegaConf.update(raw, one.key_or_group, one.value())
        except OmegaConfBaseException:
            return hydra.compose("config", overrides=list(overrides))  # raises the error in Hydra's own words
        return raw

    def _is_value(self, override: str) -> bool:
        """Whether an override sets one value that is there already, and chooses nothing."""
        key, _, _ = override.partition("=")
        return key[:1] not in ("+", "~") and "/" not in key and "@" not in key and not (conf_folder() / key).is_dir()
