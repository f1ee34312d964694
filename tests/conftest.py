"""What every test shares: checked tensor shapes, no network, one thread, and tiny models."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import hydra
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from rosa_bench.config import RunConfig, conf_folder, parse

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Before any Hugging Face library is imported: they read these once. What is imported above imports none of them.
_FOLDER = tempfile.TemporaryDirectory(prefix="rosa-bench-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{_FOLDER.name}/hugging_face"
os.environ["ROSA_BENCH_CACHE"] = f"{_FOLDER.name}/rosa_bench"

# Before these are imported: from then on, each call checks the shapes of its tensors.
install_import_hook(
    ["rosa_bench.lowrank", "rosa_bench.linear", "rosa_bench.adapters", "rosa_bench.theory"], "beartype.beartype"
)

torch.set_num_threads(1)  # several workers share the cores

# The same examples every time, and none kept on disk: a failure is seen by everyone or by no one.
settings.register_profile("rosa_bench", derandomize=True, database=None, deadline=None)
settings.load_profile("rosa_bench")


def pytest_unconfigure() -> None:
    _FOLDER.cleanup()


@cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return parse(hydra.compose("config", overrides=list(overrides)))


@pytest.fixture
def compose() -> Callable[..., RunConfig]:
    """``compose("method=lora", "rank=2")``: the checked configuration of such a command line."""
    return lambda *overrides: _composed(overrides)


@pytest.fixture
def tiny_model(compose: Callable[..., RunConfig]) -> "Callable[..., PreTrainedModel]":
    """``tiny_model("tiny_bert", num_outputs=1)``: that model, the same weights each time, without dropout."""
    from rosa_bench.models.encoder import load_encoder
    from rosa_bench.models.source import locate
    from rosa_bench.models.spec import Encoder

    def make(name: str, num_outputs: int = 2) -> "PreTrainedModel":
        spec = compose("task=grammar", f"model={name}").model
        assert isinstance(spec, Encoder)
        torch.manual_seed(0)
        return load_encoder(spec, locate(spec), num_outputs=num_outputs).model.eval()

    return make


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """No test depends on the tests before it."""
    torch.manual_seed(0)
