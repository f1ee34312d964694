import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.models.spec import Encoder, Wheel
from rosa_bench.models.weights.folder import model_folder
from rosa_bench.models.weights.source import locate
from rosa_bench.models.weights.wheel import SUMS, pulled_folder
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
        (folder / name).write_text('{"model_type": "bert"}' if name == "config.json" else name)
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
    with pytest.raises(UserError, match=rf"model\.path={folder} .*safetensors"):
        locate(model_of(path=str(folder), hub="some/where"))


def test_a_tilde_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "own", *FILES)
    assert locate(model_of(path="~/own")).location == str(tmp_path / "own")


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(folder: Path, *files: object) -> Path:
    """A model folder whose index lists ``files``."""
    fill(folder, "config.json", "tokenizer.json", *SHARDS)
    listed = {f"weight_{number}": name for number, name in enumerate(files)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", *SHARDS,
        "model.safetensors.index.json",
    ],
)  # fmt: skip
def test_every_file_that_is_read_enters_the_identity(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "own", *SHARDS)
    before = locate(model_of(path=str(folder))).identity
    with (folder / name).open("a") as file:
        file.write(" ")
    after = locate(model_of(path=str(folder))).identity
    assert set(after) == {"sha256", "tokenizer"}
    assert after != before


@pytest.mark.parametrize("name", ["README.md", "code.py", "pytorch_model.bin", "adapter_model.safetensors", "log.json"])
def test_no_other_file_enters_the_identity(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "own", *SHARDS)
    before = locate(model_of(path=str(folder))).identity
    (folder / name).write_text("anything")
    assert locate(model_of(path=str(folder))).identity == before


def test_a_single_file_of_weights_goes_before_an_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "own", *SHARDS)
    (folder / "model.safetensors").write_text("all")
    assert model_folder(folder, called="it").weights == ("model.safetensors",)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "../other/model.safetensors", "/abs/model.safetensors", "sub/model.safetensors",
        "..\\other.safetensors", ".safetensors", "", 3, None, ["model.safetensors"], "x.safetensors\n",
    ],
)  # fmt: skip
def test_an_index_names_only_safetensors_beside_it(tmp_path: Path, name: object) -> None:
    folder = sharded(tmp_path / "own", SHARDS[0], name)
    with pytest.raises(UserError, match=r"index\.json names .*; only safetensors files in the same folder are read"):
        locate(model_of(path=str(folder)))


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "[" * 100_000, '{"a": NaN}', '{"a": 1' + "0" * 5000 + "}"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_cannot_be_read_is_an_error_with_the_files_name(tmp_path: Path, name: str, content: str) -> None:
    folder = sharded(tmp_path / "own", *SHARDS)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"{folder / name} cannot be read: ") as raised:
        locate(model_of(path=str(folder)))
    assert "\n" not in str(raised.value)


def test_a_pipe_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    folder = fill(tmp_path / "own", *FILES)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        locate(model_of(path=str(folder)))


def test_another_architecture_than_declared_is_an_error(tmp_path: Path) -> None:
    folder = fill(tmp_path / "own", *FILES)
    assert locate(model_of(path=str(folder), model_type="bert")).kind == "path"
    assert locate(model_of(path=str(folder))).kind == "path"  # a yaml of the user's own need not declare it
    with pytest.raises(UserError, match=r"is a bert, not a roberta as declared"):
        locate(model_of(path=str(folder), model_type="roberta"))


def test_a_pulled_folder_that_changed_is_an_error() -> None:
    model = model_of(hub="some/where", wheel=WHEEL)
    folder = pulled_folder(model)
    assert folder is not None
    fill(folder, *FILES)
    sums = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES)
    (folder / SUMS).write_text("".join(sums))
    assert locate(model).kind == "wheel"
    (folder / "model.safetensors").write_text("model.safetensorS")
    with pytest.raises(UserError, match=r"damaged .*: model\.safetensors in .*; run: rosa-bench models pull toy"):
        locate(model)


def test_the_identity_contains_no_path() -> None:
    assert locate(model_of(hub="some/where")).identity == {"id": "some/where", "revision": "main"}
    assert locate(model_of(hub="some/where", revision="abc")).identity == {"id": "some/where", "revision": "abc"}
    assert locate(model_of(random={"model_type": "bert"})).identity == {"config": {"model_type": "bert"}}


def test_a_model_without_a_source_is_an_error() -> None:
    with pytest.raises(UserError, match=r"toy has no weights.*model\.hub, model\.wheel, model\.path or model\.random"):
        model_of()
