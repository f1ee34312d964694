from pathlib import Path

import hydra
from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigSource

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.source import FileConfigSource, _read
from rosa_bench.config.files.folder import conf_folder

FILES = sorted(str(path.relative_to(conf_folder())) for path in conf_folder().rglob("*.yaml"))


def loaded(source: ConfigSource, name: str) -> str:
    found = source.load_config(name)
    return repr((found.config, found.header, found.path, found.provider))


def test_hydra_gets_what_it_would_have_read_itself() -> None:
    ours, hydras = (
        kind("main", f"file://{conf_folder()}") for kind in (FileConfigSource, file_config_source.FileConfigSource)
    )
    assert len(FILES) > 100
    for name in FILES:
        assert loaded(ours, name) == loaded(hydras, name), name


def test_a_configuration_that_was_composed_does_not_change_the_next() -> None:
    with composing():
        first = hydra.compose("config", overrides=["task=grammar", "method=lora"])
        first.task.labels.append("another")
        first.method.rank = 7
        second = hydra.compose("config", overrides=["task=grammar", "method=lora"])
    assert _read.cache_info().currsize
    assert "another" not in second.task.labels
    assert second.method.rank != 7


def test_a_users_file_is_read_each_time(tmp_path: Path) -> None:
    source = FileConfigSource("main", f"file://{tmp_path}")
    for rank in (1, 2):
        (tmp_path / "own.yaml").write_text(f"rank: {rank}\n")
        assert source.load_config("own").config == {"rank": rank}
