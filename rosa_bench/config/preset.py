"""What a preset of ``conf/experiment`` sweeps over."""

from functools import cache

from omegaconf import OmegaConf

from rosa_bench.config.folder import files_in


@cache
def swept(preset: str, key: str) -> tuple[str, ...]:
    """Return the values of one setting in a preset's sweep."""
    params = OmegaConf.load(files_in("experiment")[preset]).hydra.sweeper.params
    return tuple(str(params[key]).split(","))
