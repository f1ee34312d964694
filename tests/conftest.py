"""Setup for all tests: checked tensor shapes, no network, one thread, tiny models and made-up records."""

import copy
import gc
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.run_id import public_config
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, from_values
from rosa_bench.training.observers.base import Observer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from rosa_bench.training.state import Training

# Hugging Face libraries read these once, at import. None of the imports above imports them.
_FOLDER = tempfile.TemporaryDirectory(prefix="rosa-bench-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = f"{_FOLDER.name}/hugging_face"
os.environ["ROSA_BENCH_CACHE"] = f"{_FOLDER.name}/rosa_bench"

# Must be set before these modules are imported. Every call then checks the shapes of its tensors, in the tests of
# these modules, and of the methods and packs that use them. Elsewhere whole runs would make the same calls thousands of
# times, and the checks take a third of their time.
install_import_hook(
    ["rosa_bench.lowrank", "rosa_bench.layers", "rosa_bench.tasks.regression.theory", "rosa_bench.training.spectrum"],
    "beartype.beartype",
)
SHAPES_CHECKED = (
    "test_lowrank.py", "layers", "methods", "adapters", "tasks/regression", "training/test_spectrum.py",
    "training/test_packed.py", "runs/packing",
)  # fmt: skip

# The same examples every time, and none stored on disk, so that everyone sees the same failures.
settings.register_profile("rosa_bench", derandomize=True, database=None, deadline=None)
settings.load_profile("rosa_bench")


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in this test, or do not."""
    place = item.path.relative_to(Path(__file__).parent)
    checked = any(place.is_relative_to(checked) for checked in SHAPES_CHECKED)
    jaxtyping_config.update("jaxtyping_disable", not checked)


def pytest_unconfigure() -> None:
    _FOLDER.cleanup()


gc.disable()  # while tests are imported


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that imports have made: every run begins with a full collection.

    The process that only hands out tests never comes here, and never imports torch.
    """
    import torch

    torch.set_num_threads(1)  # several workers share the cores
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # after the fixtures of the file have gone
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Spare it also what a file of tests has imported and cached."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` on a machine without one."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


ENCODERS = ("tiny_bert", "tiny_roberta")


@cache
def _composer() -> Composer:
    return Composer()


@cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    """Compose as the program does. test_compose.py compares this with Hydra."""
    with composing():
        return parse(_composer().settings(overrides))


@pytest.fixture(scope="session")
def compose() -> Callable[..., RunConfig]:
    """``compose("method=lora", "rank=2")``: the checked configuration for these overrides."""
    return lambda *overrides: _composed(overrides)


class AtStep(Observer):
    """Acts before the step with this number, counted from 0. ``steps`` lists the steps begun."""

    def __init__(self, step: int, action: Callable[[], None]):
        self.step, self.action = step, action
        self.steps: list[int] = []

    def on_step_start(self, training: "Training") -> None:
        self.steps.append(training.step)
        if training.step == self.step:
            self.action()


@pytest.fixture
def at_step() -> type[AtStep]:
    """``at_step(3, action)``: an observer that acts before the fourth step and lists the steps."""
    return AtStep


@pytest.fixture(scope="session")
def tiny_model(compose: Callable[..., RunConfig]) -> "Callable[..., PreTrainedModel]":
    """``tiny_model("tiny_bert", num_outputs=1)``: the model in eval mode, with the same weights every time.

    It is a copy of one that is built once, because building takes several times as long.
    """
    import torch

    from rosa_bench.models.decoder import load_decoder
    from rosa_bench.models.encoder import load_encoder
    from rosa_bench.models.spec import Decoder, Encoder
    from rosa_bench.models.weights.source import locate

    @cache
    def built(name: str, num_outputs: int) -> "tuple[PreTrainedModel, torch.Tensor]":
        task = "grammar" if name in ENCODERS else "restaurants"
        spec = compose(f"task={task}", f"model={name}").model
        torch.manual_seed(0)
        if isinstance(spec, Decoder):
            return load_decoder(spec, locate(spec)).model.eval(), torch.get_rng_state()
        assert isinstance(spec, Encoder)
        return load_encoder(spec, locate(spec), num_outputs=num_outputs).model.eval(), torch.get_rng_state()

    def make(name: str, num_outputs: int = 2) -> "PreTrainedModel":
        model, random_state = built(name, num_outputs)
        torch.set_rng_state(random_state)  # as after building
        return copy.deepcopy(model)

    return make


@pytest.fixture
def tiny_moe() -> "PreTrainedModel":
    """A Qwen3-MoE with random weights: a block without experts, and one with stacked experts."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "intermediate_size": 8, "head_dim": 8,
        "mlp_only_layers": [0],
    }  # fmt: skip
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).eval()


@pytest.fixture
def make_record(compose: Callable[..., RunConfig]) -> Callable[..., RunRecord]:
    """``make_record("task=cola", dev=0.5, ...)``: a completed record like one that a run writes.

    dev            score of the selected epoch on validation
    held_out       score on held-out rows, if those select the epoch
    last           dev score of the last epoch
    deviations     as in the record
    changes        other top-level fields of the record to replace
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
        official = {
            split: task["rows"].get(task[split]) or task.get(f"{split}_rows", 0) for split in ("train", "validation")
        }
        values: dict[str, Any] = {
            "id": "-".join([*(re.sub(r"[^\w.+-]", "", override) for override in overrides), str(dev), str(held_out)]),
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


@pytest.fixture(scope="session")
def roughened() -> "Callable[..., Any]":
    """``roughened(model)``: the model with noise added to its parameters, because zeros could hide errors.

    Only those that train change with ``trained=True``. ``by`` is the noise's standard deviation.
    """

    import torch

    def make(model: Any, *, by: float = 0.2, seed: int = 1, trained: bool = False) -> Any:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad or not trained:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
        return model

    return make


@pytest.fixture
def loud() -> "Callable[[PreTrainedModel], PreTrainedModel]":
    """``loud(model)``: the model with weights so large that its output clearly depends on its input."""

    import torch

    def make(model: "PreTrainedModel") -> "PreTrainedModel":
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture
def compiling() -> Iterator[None]:
    """Forget what other tests compiled, and do not check shapes in compiled code."""
    import torch

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[list[str]]:
    """``[*warm_python, "-m", "module"]``: a command like ``python -m module``, which finds torch imported.

    Importing it takes longer than most programs that tests start. Not for tests of what is imported. Where the system
    cannot watch processes as Linux does, it is Python itself.
    """
    if not hasattr(os, "pidfd_open"):
        yield [sys.executable]
        return
    program, path = str(Path(__file__).with_name("warm_python.py")), f"{_FOLDER.name}/python"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serve = [sys.executable, "-P", program, "serve", str(listener.fileno())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(serve, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=environment):
            yield [sys.executable, "-I", "-S", program, path]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch, so that no test depends on the tests before it."""
    import torch

    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:  # without formatting a traceback for each kind of device that is not there
        torch.default_generator.manual_seed(0)
