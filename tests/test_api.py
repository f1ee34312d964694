import doctest
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import rosa_bench
from rosa_bench import api
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.composing.placing import CHOSEN
from rosa_bench.config.identity.deviations import deviations, deviations_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.system.errors import UserError

SMALL = ["task=synthetic", "model=mlp1", "task.replicates=1", "task.train_rows=64", "task.validation_rows=16"]
TINY = [*SMALL, "epochs=1", "device=cpu"]
PACKAGE = Path(rosa_bench.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_docstrings_are_right(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_importing_the_package_imports_its_version_and_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import rosa_bench\n"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('rosa_bench')))\n"
        "print(set(rosa_bench.__all__) <= set(dir(rosa_bench)), callable(rosa_bench.compose))\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['rosa_bench', 'rosa_bench.system', 'rosa_bench.system.version']\nTrue True\nset()\n"


def test_only_public_names_can_be_loaded() -> None:
    assert all(hasattr(rosa_bench, name) for name in rosa_bench.__all__)
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = rosa_bench.unheard_of


@pytest.mark.parametrize(("overrides", "words"), [
    (["taks=cola"], "taks is not a setting; did you mean task"),
    (["rank=0"], "rank=0 is out of range"),
    (["++unknown=5"], "unknown is not a setting"),
    (["~lr"], "removes a setting"),
    (["rank=eight"], "eight"),
    ("task=cola", "one string"),
])  # fmt: skip
def test_a_mistake_raises_a_one_line_user_error(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        rosa_bench.compose(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compose_gives_the_same_settings_as_the_command_line(compose: Callable[..., RunConfig]) -> None:
    assert rosa_bench.compose([*TINY, "method=lora", "rank=2"]) == compose(*TINY, "method=lora", "rank=2")


def test_a_model_that_is_found_from_its_folder_is_composed(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from rosa_bench.models.weights.random import byte_tokenizer

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 261}
    Qwen2ForCausalLM(Qwen2Config(**sizes, intermediate_size=64)).save_pretrained(tmp_path)
    byte_tokenizer(max_length=64).save_pretrained(tmp_path)
    config = rosa_bench.compose(["task=restaurants", "model=auto", f"model.path={tmp_path}", "method=lora", "rank=2"])
    assert config.model.name.startswith("qwen2_")


def test_a_run_of_changed_settings_records_deviations() -> None:
    config = replace(rosa_bench.compose([*TINY, "method=ft"]), epochs=2)
    record = rosa_bench.run(config)
    assert record.deviations["epochs"][0] == 2
    assert rosa_bench.run([*TINY, "method=ft", "epochs=2"]).started_at == record.started_at  # not run again


@pytest.mark.parametrize("overrides", [
    [], ["method=lora", "rank=4", "method.alpha=8"], ["protocol=fair", "epochs=3", "seed=3", "lr=1e-3"],
    ["method.resample_every=1", "optimizer.betas=[0.9,0.999]", "limit_train=64"],
    ["task=restaurants", "model=tiny_llama", "task.decoding=null", "task.score=loss"],
    ["method=rso", "method.moments=reset", "parallel=sharded"],  # sharded weights do not go with the protocol's moments
])  # fmt: skip
def test_deviations_of_settings_equal_those_of_their_overrides(overrides: list[str]) -> None:
    """The command line has its overrides, and the library the settings alone."""
    with api.composing() as composer:
        raw = composer.compose(tuple(overrides))
        expected = deviations(raw, {group: raw[group].name for group in CHOSEN})
        found = deviations_of(parse(raw))
    assert {key: list(map(_listed, pair)) for key, pair in found.items()} == expected


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_a_completed_run_is_repeated_only_on_demand() -> None:
    first = rosa_bench.run([*TINY, "method=ft"])
    again = rosa_bench.run([*TINY, "method=ft", "resume=never"])
    assert again.id == first.id
    assert [record.id for record in rosa_bench.load_records("results")] == [first.id]
    assert len(list(Path("results/runs/superseded").iterdir())) == 1
