"""Models of the user's own: ``models add``, and ``--config-dir`` with every command."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils import logging

from rosa_bench.cli.options import own_config_dir
from rosa_bench.config.files.folder import OWN, conf_folder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.records.store import load_records
from rosa_bench.system.errors import UserError

TINY = {
    "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
RUN = ["task=grammar", "rank=2", "epochs=1", "batch_size=8", "limit_train=16", "limit_eval=8", "max_length=32",
       "device=cpu", "protocol=paper"]  # fmt: skip


def saved(folder: Path, kind: Any, model_type: str, **settings: Any) -> Path:
    torch.manual_seed(0)
    logging.disable_progress_bar()  # it would be on stderr
    kind.from_config(CONFIG_MAPPING[model_type](**TINY, **settings)).save_pretrained(folder)  # pyrefly: ignore[unexpected-keyword]
    byte_tokenizer(max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture
def deberta(here: Path) -> Path:
    return saved(here / "deberta", AutoModelForMaskedLM, "deberta-v2")


@pytest.fixture
def qwen(here: Path) -> Path:
    return saved(here / "qwen", AutoModelForCausalLM, "qwen2", num_key_value_heads=2)


def test_add_writes_what_auto_finds(rosa_bench: Callable[..., Any], here: Path, qwen: Path) -> None:
    added = rosa_bench("models", "add", str(qwen), "name=ours", "licence=MIT")
    assert (added.status, added.err) == (0, "")
    assert "Qwen2" in added.out
    use = f"rosa-bench --config-dir {here}/my_conf model=ours"
    assert use in added.out
    own = OmegaConf.load(here / "my_conf/model/ours.yaml")
    assert (own.name, own.path, own.licence) == ("ours", str(qwen), "MIT")
    settings = ["--cfg", "job", "--resolve", "--package", "model", "task=restaurants"]
    of_file = rosa_bench("--config-dir=my_conf", *settings, "model=ours")
    found = rosa_bench(*settings, "model=auto", f"model.path={qwen}")
    shown = [OmegaConf.to_container(OmegaConf.create(one.out)) for one in (of_file, found)]
    for one in shown:
        assert isinstance(one, dict)
        for key in ("name", "licence", "hub", "revision"):
            one.pop(key, None)
    assert shown[0] == shown[1]


def test_every_command_knows_the_folder(rosa_bench: Callable[..., Any], qwen: Path) -> None:
    rosa_bench("models", "add", str(qwen), "name=ours", "--config-dir", "mine")
    flag = ["--config-dir", "mine"]
    assert " ours " in rosa_bench(*flag, "models").out.replace("\n", "\n ")
    assert "restaurants ours" in rosa_bench("plan", *flag, "task=restaurants", "model=ours").out
    assert "lora" in rosa_bench("methods", "lora", "model=ours", *flag).out
    assert "ours" in rosa_bench("--help", *flag).out
    rosa_bench("plan", "task=restaurants", "model=ours").assert_one_line_error("model=ours is not known")
    assert OWN not in os.environ


@pytest.mark.parametrize("command", [["plan"], ["models"], ["methods"], ["next"], ["-m", "seed=0,1"], ["seed=1"]])
def test_a_folder_that_does_not_exist_is_a_mistake(rosa_bench: Callable[..., Any], command: list[str]) -> None:
    rosa_bench("--config-dir", "nowhere", *command).assert_one_line_error("nowhere is not a folder")


def test_a_folder_is_needed_after_the_flag() -> None:
    for arguments in (["plan", "--config-dir"], ["--config-dir=", "plan"]):
        with pytest.raises(UserError, match="--config-dir needs a folder"):
            own_config_dir(arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deberta"], "add needs name=NAME"),
        (["deberta", "qwen", "name=ours"], "one FOLDER or ID"),
        (["deberta", "name=../ours"], "is not a name"),
        (["deberta", "name=gpt2"], "name=gpt2 is a model already"),
        (["./none", "name=ours"], "is not a model folder"),
        (["deberta", "name=ours", "titel=x"], "titel is not an option"),
        (["deberta", "name=ours", f"--config-dir={conf_folder()}"], "the package's own folder"),
    ],
)
def test_mistakes_of_add_write_nothing(
    rosa_bench: Callable[..., Any], here: Path, deberta: Path, arguments: list[str], words: str
) -> None:
    before = sorted(conf_folder().rglob("*"))
    rosa_bench("models", "add", *arguments).assert_one_line_error(words)
    assert list(here.iterdir()) == [deberta]
    assert sorted(conf_folder().rglob("*")) == before


def test_add_overwrites_nothing(rosa_bench: Callable[..., Any], here: Path, deberta: Path) -> None:
    rosa_bench("models", "add", str(deberta), "name=ours")
    before = (here / "my_conf/model/ours.yaml").read_bytes()
    rosa_bench("models", "add", str(deberta), "name=ours", "title=x").assert_one_line_error("is a model already")
    assert (here / "my_conf/model/ours.yaml").read_bytes() == before


def test_what_next_prints_chooses_the_same_model(rosa_bench: Callable[..., Any], here: Path, deberta: Path) -> None:
    assert rosa_bench(*RUN, "method=lora", "model=auto", f"model.path={deberta}").status == 0
    [record] = load_records(here / "results")
    assert record.settings.model.name.startswith("deberta_v2_")
    assert record.deviations.keys() == {"epochs", "batch_size", "limit_train", "limit_eval", "max_length"}
    assert "add model.path=FOLDER" in "".join(rosa_bench("next")[1:])
    _, *command = shlex.split(rosa_bench("next", f"model.path={deberta}").out)
    assert {"model=auto", f"model.path={deberta}"} <= set(command)
    assert rosa_bench("plan", *(word for word in command if word != "-m")).status == 0


@pytest.mark.long
def test_a_model_of_ones_own_from_end_to_end(process: Callable[..., Any], here: Path, deberta: Path) -> None:
    assert process("models", "add", str(deberta), "name=ours").status == 0
    flag = ["--config-dir", "my_conf"]
    done = process(*flag, "-m", *RUN, "model=ours", "method=rosa,lora")
    assert "2 runs, all completed" in done.out + done.err
    assert {run.settings.model.name for run in load_records(here / "results")} == {"ours"}
    commands = [shlex.split(line) for line in process("next", *flag).out.splitlines()]
    assert len(commands) == 2
    assert all(words[:3] == ["rosa-bench", "--config-dir", str(here / "my_conf")] for words in commands)
    assert process(*commands[0][1:]).status == 0
    assert "rosa minus lora" in process("compare", "method=rosa,lora", *flag).out
