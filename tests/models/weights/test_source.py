from pathlib import Path
from typing import Any

import pytest

from rosa_bench.models.spec import Encoder, Wheel
from rosa_bench.models.weights.source import locate
from rosa_bench.models.weights.wheel import pulled_folder
from rosa_bench.system.errors import UserError

WHEEL = Wheel(requirements=["a==1"], sha256=["0123456789abcdef" * 4], folder="a/model")
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def model_of(**sources: Any) -> Encoder:
    return Encoder(name="toy", title="Toy", parameters=1, licence="none", attention="x", head="y", **sources)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_sources_are_tried_in_the_order_folder_wheel_hub(tmp_path: Path) -> None:
    everything: dict[str, Any] = {"hub": "some/where", "wheel": WHEEL}
    model = model_of(**everything)
    assert locate(model).kind == "hub"  # the wheel has not been pulled yet
    folder = pulled_folder(model)
    assert folder is not None
    fill(folder, *FILES)
    assert (locate(model).kind, locate(model).location) == ("wheel", str(folder))
    assert locate(model).identity == {"requirements": WHEEL.requirements, "sha256": WHEEL.sha256}
    own = fill(tmp_path / "own", *FILES)
    found = locate(model_of(**everything, path=str(own)))
    assert (found.kind, found.location) == ("path", str(own))


@pytest.mark.parametrize("absent", FILES)
def test_an_incomplete_pulled_folder_is_ignored(absent: str) -> None:
    model = model_of(hub="some/where", wheel=WHEEL)
    folder = pulled_folder(model)
    assert folder is not None
    fill(folder, *(name for name in FILES if name != absent))
    assert locate(model).kind == "hub"


def test_missing_wheel_error_names_the_pull_command() -> None:
    with pytest.raises(UserError, match=r"model=toy.*rosa-bench models pull toy"):
        locate(model_of(wheel=WHEEL))


@pytest.mark.parametrize(
    "names", [None, (), ("config.json",), ("model.safetensors",), ("config.json", "pytorch_model.bin")]
)
def test_a_folder_without_a_model_is_an_error(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    folder = tmp_path / "own"
    if names is not None:
        fill(folder, *names)
    with pytest.raises(UserError, match=rf"model\.path={folder} .*config\.json.*safetensors"):
        locate(model_of(path=str(folder), hub="some/where"))


def test_a_tilde_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "own", *FILES)
    assert locate(model_of(path="~/own")).location == str(tmp_path / "own")


def test_all_shards_enter_the_hash(tmp_path: Path) -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = fill(tmp_path / "own", "config.json", *shards)
    before = locate(model_of(path=str(folder))).identity
    (folder / shards[1]).write_text("other weights")
    assert locate(model_of(path=str(folder))).identity != before


def test_the_identity_contains_no_path() -> None:
    assert locate(model_of(hub="some/where")).identity == {"id": "some/where", "revision": "main"}
    assert locate(model_of(hub="some/where", revision="abc")).identity == {"id": "some/where", "revision": "abc"}
    assert locate(model_of(random={"model_type": "bert"})).identity == {"config": {"model_type": "bert"}}


def test_a_model_without_a_source_is_an_error() -> None:
    with pytest.raises(UserError, match=r"toy has no weights.*model\.hub, model\.wheel, model\.path or model\.random"):
        model_of()
