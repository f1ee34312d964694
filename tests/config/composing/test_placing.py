"""What is composed without Hydra is what Hydra composes."""

from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.placing import TRACKED, Placing, plain
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.files.reading import read_yaml
from rosa_bench.config.groups import names_in
from rosa_bench.report.published import published_folder


def test_a_file_is_read_as_omegaconf_reads_it() -> None:
    for path in (*conf_folder().rglob("*.yaml"), *published_folder().glob("*.yaml")):
        assert repr(read_yaml(path)) == repr(plain(OmegaConf.load(path))), path


def test_a_repeated_key_is_refused_as_by_omegaconf(tmp_path: Path) -> None:
    (path := tmp_path / "twice.yaml").write_text("rank: 1\nrank: 2\n")
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate key rank"):
        read_yaml(path)


@pytest.mark.slow
@pytest.mark.parametrize("task", [None, *names_in("task")])
def test_each_task_is_composed_as_by_hydra(task: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {} if task is None else {"task": task}
    with composing():
        expected = plain(hydra.compose("config", overrides=[f"{group}={name}" for group, name in chosen.items()]))
        monkeypatch.setattr(Placing, "_hydras", None)  # all of them have the package's own forms
        found = Placing().composed(chosen)
    assert repr(found) == repr(expected)  # in the same order too


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [f"{group}={name}" for group in ("model", "method", "protocol", TRACKED) for name in names_in(group)]
)
def test_each_choice_is_composed_as_by_hydra(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with composing():
        expected = plain(hydra.compose("config", overrides=[given]))
        monkeypatch.setattr(Placing, "_hydras", None)
        found = Placing().composed(dict([given.split("=")]))
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    "given", ["+launch=joblib", "logger=tensorboard", "+experiment=quickstart +launch=joblib task=wic"]
)
def test_what_sweeps_add_is_composed_as_by_hydra(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "joblib" in given:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with composing():
        expected = plain(hydra.compose("config", overrides=given.split()))
        monkeypatch.setattr(Placing, "_hydras", None)
        found = Placing().composed(dict(one.split("=") for one in given.split()))
    assert repr(found) == repr(expected)
