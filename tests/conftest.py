"""What every test shares: checked tensor shapes, no network, one thread, and tiny models."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import hydra
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from omegaconf import DictConfig

from rosa_bench.config.folder import conf_folder
from rosa_bench.config.identity import public_config
from rosa_bench.config.parse import parse
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, from_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Before any Hugging Face library is imported: they read these once. What is imported above imports none of them.
_FOLDER = tempfile.TemporaryDirectory(prefix="rosa-bench-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{_FOLDER.name}/hugging_face"
os.environ["ROSA_BENCH_CACHE"] = f"{_FOLDER.name}/rosa_bench"

# Before these are imported: from then on, each call checks the shapes of its tensors.
install_import_hook(
    ["rosa_bench.lowrank", "rosa_bench.layers", "rosa_bench.tasks.regression.theory", "rosa_bench.training.spectrum"],
    "beartype.beartype",
)

torch.set_num_threads(1)  # several workers share the cores

# The same examples every time, and none kept on disk: a failure is seen by everyone or by no one.
settings.register_profile("rosa_bench", derandomize=True, database=None, deadline=None)
settings.load_profile("rosa_bench")


def pytest_unconfigure() -> None:
    _FOLDER.cleanup()


ENCODERS = ("tiny_bert", "tiny_roberta")


# Plain numbers: what they are set in takes Hydra a tenth of a second, and is composed once for all of them.
NUMBERS = ("seed=", "lr=", "rank=")


@cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    numbers = [override for override in overrides if override.startswith(NUMBERS)]
    raw = _raw(tuple(override for override in overrides if override not in numbers)).copy()
    raw.merge_with_dotlist(numbers)
    return parse(raw)


@cache
def _raw(overrides: tuple[str, ...]) -> DictConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return hydra.compose("config", overrides=list(overrides))


@pytest.fixture
def compose() -> Callable[..., RunConfig]:
    """``compose("method=lora", "rank=2")``: the checked configuration of such a command line."""
    return lambda *overrides: _composed(overrides)


@pytest.fixture
def tiny_model(compose: Callable[..., RunConfig]) -> "Callable[..., PreTrainedModel]":
    """``tiny_model("tiny_bert", num_outputs=1)``: that model, the same weights each time, without dropout."""
    from rosa_bench.models.decoder import load_decoder
    from rosa_bench.models.encoder import load_encoder
    from rosa_bench.models.spec import Decoder, Encoder
    from rosa_bench.models.weights.source import locate

    def make(name: str, num_outputs: int = 2) -> "PreTrainedModel":
        task = "grammar" if name in ENCODERS else "restaurants"
        spec = compose(f"task={task}", f"model={name}").model
        torch.manual_seed(0)
        if isinstance(spec, Decoder):
            return load_decoder(spec, locate(spec)).model.eval()
        assert isinstance(spec, Encoder)
        return load_encoder(spec, locate(spec), num_outputs=num_outputs).model.eval()

    return make


@pytest.fixture
def make_record(compose: Callable[..., RunConfig]) -> Callable[..., RunRecord]:
    """``make_record("task=cola", dev=0.5, ...)``: a completed record of such a command line, as a run makes it.

    dev, held_out  score of the selected epoch; ``held_out`` makes it one that was selected on held-out rows
    last           dev score of the last epoch
    deviations     as in the record; ``changes`` are top-level fields of the record to replace
    """

    def make(
        *overrides: str,
        dev: float = 0.5,
        held_out: float | None = None,
        last: float | None = None,
        deviations: dict[str, list[Any]] | None = None,
        trainable: int = 626_688,
        data: dict[str, Any] | None = None,
        **changes: Any,
    ) -> RunRecord:
        config = public_config(compose(*overrides))
        task, reported = config["task"], config["task"]["score"]
        held_out_rows = 0 if held_out is None else 100
        official = {split: task["rows"].get(task[split]) or task[f"{split}_rows"] for split in ("train", "validation")}
        values: dict[str, Any] = {
            "id": "-".join([*(override.replace("=", "") for override in overrides), str(dev), str(held_out)]),
            "status": "completed",
            "config": config,
            "deviations": deviations or {},
            "data": {
                "source": f"hub {task['folder']}@main",
                "synthetic": task["synthetic"],
                "rows": {**official, "train": official["train"] - held_out_rows, "held_out": held_out_rows},
                "official_rows": official,
                "subset": False,
                "fingerprint": f"{task['name']} {config['seed'] if held_out_rows else ''}",
            }
            | (data or {}),
            "model": {"source": "hub", "id": config["model"]["hub"], "revision": "main", "commit": None},
            "device": {"type": "cuda", "name": "NVIDIA H200", "precision": "bfloat16"},
            "versions": {},
            "git": {"commit": None, "dirty": None},
            "started_at": "2026-01-01T00:00:00+00:00",
            "parameters": {"total": 125_000_000, "trainable": trainable},
            "scores": {
                "reported": reported,
                "signature": "",
                "epochs": [],
                "selected_on": "validation" if held_out is None else "held_out",
                "selection_score": dev if held_out is None else held_out,
                "selected": {"epoch": 7, reported: dev},
                "last": {"epoch": 10, reported: dev if last is None else last},
            },
        }
        return from_values(values | changes)

    return make


@pytest.fixture
def loud() -> "Callable[[PreTrainedModel], PreTrainedModel]":
    """``loud(model)``: the model with weights so large that what it says depends on what it read."""

    def make(model: "PreTrainedModel") -> "PreTrainedModel":
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """No test depends on the tests before it."""
    torch.manual_seed(0)
