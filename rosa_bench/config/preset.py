"""What a preset of ``conf/experiment`` sweeps over."""

from functools import cache

from omegaconf import OmegaConf

from rosa_bench.config.folder import conf_folder


@cache
def swept(preset: str, key: str) -> tuple[str, ...]:
    """Return the values of one setting in a preset's sweep."""
    params = OmegaConf.load(conf_folder() / "experiment" / f"{preset}.yaml").hydra.sweeper.params
    return tuple(str(params[key]).split(","))
