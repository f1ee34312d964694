"""Where Hydra gets the package's files from: it reads about twenty of them for each configuration that it composes."""

from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.files.reading import read_yaml


class FileConfigSource(file_config_source.FileConfigSource):  # of the same name, or Hydra would refuse it in workers
    """Reads the package's files once in a process, by libyaml; a user's own files as Hydra does."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.is_relative_to(conf_folder()) or not path.exists():
            return super().load_config(config_path)
        header, values = _read(path)
        place, config = f"{self.scheme()}://{self.path}", OmegaConf.create(values)
        return ConfigResult(provider=self.provider, path=place, config=config, header=dict(header))


@cache
def _read(path: Path) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return the header of a file, such as ``# @package _global_``, and its values."""
    return FileConfigSource._get_header_dict(path.read_text(encoding="utf-8")), read_yaml(path)


def register() -> None:
    """Make Hydra read files so."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
