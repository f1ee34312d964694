"""What a preset of ``conf/experiment`` sweeps over."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.files.folder import files_in

SHIFT = "lr_half_decades"  # the setting


@cache
def swept(preset: str, key: str) -> tuple[str, ...]:
    """Return the values of one setting in a preset's sweep."""
    return tuple(str(_params(preset)[key]).split(","))


def is_sweep(overrides: Iterable[str]) -> bool:
    """Return whether the overrides choose a preset that sweeps over something, as ``+experiment=table2`` does."""
    return any(name in files_in("experiment") and _params(name) for name in presets_in(overrides))


def at_given_rate(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep such that a learning rate that is given replaces a preset's half-decades, too.

    Otherwise a preset that sweeps around each method's own rate would also make runs around the given one.
    """
    given = {override.partition("=")[0] for override in overrides}
    if "lr" not in given or SHIFT in given:
        return list(overrides)
    shifted = any(SHIFT in _params(name) for name in presets_in(overrides) if name in files_in("experiment"))
    return [*overrides, f"{SHIFT}=0"] if shifted else list(overrides)


def presets_in(overrides: Iterable[str]) -> list[str]:
    """Return the names of the presets that the overrides choose."""
    chosen = [override.lstrip("+") for override in overrides]
    return [override.partition("=")[2] for override in chosen if override.startswith("experiment=")]


def _params(preset: str) -> dict[str, Any]:
    """Return what a preset sweeps over, with what the presets that it builds on do."""
    loaded = OmegaConf.load(files_in("experiment")[preset])
    found: dict[str, Any] = {}
    for base in OmegaConf.select(loaded, "defaults") or ():
        if isinstance(base, str) and base in files_in("experiment"):
            found |= _params(base)
    own: Any = OmegaConf.to_container(OmegaConf.select(loaded, "hydra.sweeper.params") or OmegaConf.create())
    return found | own
