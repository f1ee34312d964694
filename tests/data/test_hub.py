from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.hub import fetch_rows, files_of
from rosa_bench.data.spec import HubData
from rosa_bench.system.errors import UserError

ON_HUB = sorted(path.stem for path in (conf_folder() / "task").glob("*.yaml") if "hub" in OmegaConf.load(path))
GLUE = [
    f"{task}/{split}-00000-of-00001.parquet" for task in ("cola", "mrpc") for split in ("train", "validation", "test")
]


@pytest.mark.parametrize("task", ON_HUB)
def test_every_setting_of_hub_data_can_be_set_without_a_plus(compose: Callable[..., RunConfig], task: str) -> None:
    changed = {"path": "a/b", "name": "c", "revision": "abc", "files": "x/{split}.parquet", "labels": ["d", "e"]}
    values = {**changed, "labels": "[d,e]", "files": "'x/{split}.parquet'"}
    config = compose(f"task={task}", *(f"task.hub.{key}={value}" for key, value in values.items()))
    assert config.task.hub == HubData(**changed)


def test_a_split_is_the_files_that_datasets_writes_for_it() -> None:
    hub = HubData(path="nyu-mll/glue", name="cola")
    assert files_of(hub, "train", ["README.md", *GLUE]) == ["cola/train-00000-of-00001.parquet"]
    plain = [
        "data/train-00001-of-00002.parquet",
        "data/train-00000-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
    ]
    assert files_of(HubData(path="a/b"), "train", plain) == sorted(plain)[1:]


def test_a_pattern_stays_in_its_folder() -> None:
    hub = HubData(path="a/b", files="default/{split}/*.parquet")
    paths = [
        "default/train/1.parquet",
        "default/train/0.parquet",
        "default/train/x/0.parquet",
        "x/default/train/0.parquet",
    ]
    assert files_of(hub, "train", paths) == ["default/train/0.parquet", "default/train/1.parquet"]


def test_missing_files_are_an_error_that_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"a/b has no files data/dev-\*\.parquet; set task\.hub\.files"):
        files_of(HubData(path="a/b"), "dev", GLUE)


def test_missing_parts_are_an_error() -> None:
    hub = HubData(path="a/b")
    parts = [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert files_of(hub, "train", parts) == parts
    for absent in parts:
        with pytest.raises(UserError, match="a/b has 2 of the 3 files"):
            files_of(hub, "train", [part for part in parts if part != absent])


def test_rows_elsewhere_are_left_alone(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    assert fetch_rows(compose("task=cola").task, tmp_path) == tmp_path
    assert fetch_rows(compose("task=grammar").task, None) is None
