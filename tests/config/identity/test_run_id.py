import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from rosa_bench.config.identity.run_id import identity, public_config, run_id
from rosa_bench.config.schema import RunConfig
from rosa_bench.runs.resolve import resolve

Compose = Callable[..., RunConfig]
Name = Callable[..., str]

TINY = ("task=grammar", "model=tiny_roberta", "method=lora", "lr=2e-4", "device=cpu")


@pytest.fixture
def name(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Name:
    """``name("lr=1")``: the id of a run with these overrides and a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rosa_bench.training.compile.check_compiler", lambda _choice: None)  # works without a compiler
    return lambda *overrides: resolve(compose(*TINY, *overrides), {}).id


@pytest.mark.parametrize("override", [
    "lr=0.5", "seed=1", "epochs=3", "rank=2", "batch_size=16", "accumulate=2", "max_length=64", "pad_to_max=true",
    "group_by_length=true", "stop_collapsed=true", "compile=default", "compile=max",
    "limit_train=8", "limit_eval=8", "precision=bfloat16", "base_dtype=bfloat16", "protocol=fair",
    "protocol.held_out_rows=0.2",
    "protocol.train_head=true", "optimizer.weight_decay=0", "optimizer.betas=[0.9,0.999]", "optimizer.clip_norm=1",
    "optimizer.warmup_steps=5",
    "method=rosa", "method=ft", "method.alpha=3", "method.init=kaiming", "method.targets=all-linear",
    "method.train_biases=false", "model=tiny_bert", "model.random.hidden_size=64", "model.head=nothing",
    "model.attention=query", "task.metric=accuracy", "task.score=accuracy", "+task.marker=_",
])  # fmt: skip
def test_a_setting_that_can_change_scores_changes_the_id(name: Name, override: str) -> None:
    assert name(override) != name()


@pytest.mark.parametrize("override", ["method.resample_every=1", "method.resample_unit=steps", "method.select=top"])
def test_a_setting_that_can_change_rosas_scores_changes_the_id(name: Name, override: str) -> None:
    assert name("method=rosa", override) != name("method=rosa")


@pytest.mark.parametrize("overrides", [
    ["results_dir=elsewhere"], ["output_dir=elsewhere"], ["resume=never"], ["save_model=true"],
    ["record_spectrum=true"], ["retry_failed=true"], ["checkpoint_s=5"],
    ["cuda_graphs=never"], ["cuda_graphs=always"], ["compile=none"], ["group_by_length=false"],
    ["stop_collapsed=false"],
    ["method.default_lr.paper=0.5"], ["lr=0.0002"], ["rank=8"], ["task.title=Other"], ["model.title=Other"],
    ["method.title=Other"], ["protocol.title=Other"], ["model.licence=Other"], ["model.note=Other"],
    ["task.rows.train=5"], ["precision=float32"], ["data_dir=."],
])  # fmt: skip
def test_other_settings_do_not_change_the_id(name: Name, overrides: list[str]) -> None:
    assert name(*overrides) == name()


def test_an_added_setting_does_not_change_existing_ids(compose: Compose, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rosa_bench.training.compile.check_compiler", lambda _choice: None)
    known = resolve(compose(*TINY), {}).identity
    for name in (
        "pad_to_max",
        "group_by_length",
        "stop_collapsed",
        "compile",
        "lm_head",
        "fused",
        "split_qkv",
        "schedule",
    ):
        assert f'"{name}"' not in json.dumps(known)
    assert "name" not in known["optimizer"]
    for key, value in (
        ("pad_to_max", True),
        ("group_by_length", True),
        ("stop_collapsed", True),
        ("compile", "default"),
    ):
        identity = resolve(compose(*TINY, f"{key}={str(value).lower()}"), {}).identity
        assert identity == {**known, key: value}


@pytest.mark.skipif(torch.cuda.is_available(), reason="device=auto means another device")
def test_device_auto_counts_as_the_resolved_device(name: Name) -> None:
    assert name("device=auto") == name("device=cpu")


@pytest.mark.parametrize("method", ["ft", "ia3", "bitfit", "head_only"])
def test_rank_does_not_change_the_id_of_a_method_without_one(name: Name, method: str) -> None:
    assert name(f"method={method}", "rank=2") == name(f"method={method}", "rank=8")


def test_the_id_starts_with_readable_settings(name: Name) -> None:
    assert re.fullmatch(r"grammar-tiny_roberta-lora-r4-lr0\.002-s3-[0-9a-f]{10}", name("rank=4", "lr=2e-3", "seed=3"))
    assert re.fullmatch(r"grammar-tiny_roberta-ft-lr0\.0002-s0-[0-9a-f]{10}", name("method=ft"))


def write_data(folder: Path, train: str, validation: str) -> Path:
    (folder / "glue/cola").mkdir(parents=True)
    (folder / "glue/cola/train.jsonl").write_text(train)
    (folder / "glue/cola/validation.jsonl").write_text(validation)
    return folder


def test_data_is_identified_by_content_and_not_by_folder(name: Name, tmp_path: Path) -> None:
    rows = [f'{{"sentence": "{letter}", "label": 1}}\n' for letter in "abc"]
    folders = {
        "original": (rows[0] + rows[1], rows[2]),
        "copy": (rows[0] + rows[1], rows[2]),
        "another row": (rows[0] + rows[2], rows[2]),
        "another order": (rows[1] + rows[0], rows[2]),
        "another split": (rows[0], rows[1] + rows[2]),
    }
    names = {
        key: name("task=cola", f"data_dir='{write_data(tmp_path / key, *texts)}'") for key, texts in folders.items()
    }
    assert names["original"] == names["copy"]
    assert names["another row"] != names["original"]
    assert names["another order"] != names["original"]
    assert names["another split"] != names["original"]
    assert name("task=cola") != names["original"]  # from the hub


def write_model(folder: Path, config: str, weights: bytes, tokenizer: str = "{}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def test_weights_are_identified_by_content_and_not_by_folder(name: Name, tmp_path: Path) -> None:
    config = '{"model_type": "roberta"}'
    folders = {
        "original": (config, b"1"), "copy": (config, b"1"), "weights": (config, b"2"), "shape": (f"{config} ", b"1"),
        "tokenizer": (config, b"1", "{ }"),
    }  # fmt: skip
    names = {key: name(f"+model.path={write_model(tmp_path / key, *of)}") for key, of in folders.items()}  # pyrefly: ignore[bad-argument-type]
    assert names["original"] == names["copy"]
    assert len({names["original"], names["weights"], names["shape"], names["tokenizer"], name()}) == 5


def test_another_revision_of_a_model_changes_the_id(name: Name) -> None:
    hub = ("model=roberta_base", "rank=8")
    assert name(*hub, "+model.revision=abc") != name(*hub)


def test_the_public_configuration_has_no_folders_of_the_machine(compose: Compose) -> None:
    config = compose(
        *TINY, "data_dir=/home/me/d", "output_dir=/home/me/o", "results_dir=/home/me/r", "+model.path=/home/me/m"
    )
    assert "/home/me" not in json.dumps(public_config(config))
    unpublished = {"default_init", "default_targets", "look", "about"}
    shown = {key: value for key, value in asdict(config.method).items() if key not in unpublished}
    assert public_config(config)["method"] == shown


def test_the_order_of_settings_does_not_change_the_id(compose: Compose) -> None:
    """Fields may be declared in another order later."""
    config = compose(*TINY)
    known = identity(config, data="rows", model={"source": "a", "commit": "b"}, device="cpu", precision="float32")
    model = dict(reversed(known["weights"].items()))
    assert run_id(config, dict(reversed((known | {"weights": model}).items()))) == run_id(config, known)
