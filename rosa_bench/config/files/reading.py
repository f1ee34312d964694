"""Read yaml files as omegaconf does; the package's own ones on libyaml, in a fraction of the time."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from rosa_bench.config.files.folder import conf_folder


def read_settings(path: Path) -> dict[str, Any]:
    """Return the values of a configuration file, the package's own or the user's, with references as written."""
    if path.is_relative_to(conf_folder()):
        return read_yaml(path)
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # pyrefly: ignore[bad-return]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the values of a yaml file, with references such as ``${rank}`` as they are written."""
    with path.open(encoding="utf-8") as file:
        return yaml.load(file, Loader=_loader()) or {}


@cache
def _loader() -> Any:
    """Return omegaconf's loader, on libyaml's parser if there is one."""
    omegaconfs = get_yaml_loader()
    if not yaml.__with_libyaml__:
        return omegaconfs
    from yaml.cyaml import CParser

    class Loader(CParser, omegaconfs):
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader
