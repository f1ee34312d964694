"""What a preset of ``conf/experiment`` sweeps over."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.files.folder import files_in


@cache
def swept(preset: str, key: str) -> tuple[str, ...]:
    """Return the values of one setting in a preset's sweep."""
    return tuple(str(_params(preset)[key]).split(","))


def is_sweep(overrides: Iterable[str]) -> bool:
    """Return whether the overrides choose a preset that sweeps over something, as ``+experiment=table2`` does."""
    return any(name in files_in("experiment") and _params(name) for name in presets_in(overrides))


def presets_in(overrides: Iterable[str]) -> list[str]:
    """Return the names of the presets that the overrides choose."""
    chosen = [override.lstrip("+") for override in overrides]
    return [override.partition("=")[2] for override in chosen if override.startswith("experiment=")]


def _params(preset: str) -> dict[str, Any]:
    loaded = OmegaConf.load(files_in("experiment")[preset])
    return OmegaConf.to_container(OmegaConf.select(loaded, "hydra.sweeper.params") or OmegaConf.create())  # pyrefly: ignore[bad-return]
