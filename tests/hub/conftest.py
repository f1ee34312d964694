"""A loopback hub with the repositories of conf/, each with a tiny model or a few made-up rows."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

REPOSITORY = Path(__file__).parents[2]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


loopback_hub = _load("loopback_hub")


@pytest.fixture(scope="session")
def faults() -> Any:
    """The module with the hub's ways to fail."""
    return loopback_hub


def parquet(rows: list[dict[str, Any]], classes: list[str] | None = None) -> bytes:
    """Return rows as a parquet file like one that `datasets` writes, with the class names of the column label."""
    table = pyarrow.Table.from_pylist(rows)
    if classes is not None:
        features = {"label": {"names": classes, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


@pytest.fixture(scope="session")
def as_parquet() -> Callable[..., bytes]:
    """``as_parquet(rows, classes)``: a parquet file."""
    return parquet


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    words = ("red", "blue", "warm", "cold", "near", "far")
    return [
        {"sentence": f"the {words[(n + seed) % 6]} stone {words[n % 5]} {n}", "label": n % 2, "idx": n}
        for n in range(count)
    ]


def cola(seed: int = 0, classes: list[str] | None = None) -> dict[str, bytes]:
    """Return the files of GLUE with CoLA alone, and others that no run needs."""
    named = classes or ["unacceptable", "acceptable"]
    splits = {"train": 40, "validation": 16, "test": 8}
    return {
        "README.md": b"# GLUE\n",
        **{f"cola/{split}-00000-of-00001.parquet": parquet(sentences(n, seed), named) for split, n in splits.items()},
        "mrpc/train-00000-of-00001.parquet": parquet([{"sentence1": "a", "sentence2": "b", "label": 0}]),
    }


def boolq() -> dict[str, bytes]:
    rows = [{"question": f"is it {n}", "passage": f"it is {n - n % 2}", "label": n % 2} for n in range(30)]
    return {
        f"boolq/{split}-00000-of-00001.parquet": parquet(rows, ["False", "True"]) for split in ("train", "validation")
    }


def e2e() -> dict[str, bytes]:
    rows = [{"meaning_representation": f"name[A{n}]", "human_reference": f"A{n} is near."} for n in range(12)]
    return {f"default/{split}/0000.parquet": parquet(rows) for split in ("train", "validation", "test")}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> dict[str, dict[str, bytes]]:
    """Files of a tiny RoBERTa and a tiny GPT-2, with a tokenizer and files that must not be downloaded."""
    from rosa_bench.models.weights.random import byte_tokenizer

    found = {}
    for name in ("tiny_roberta", "tiny_gpt2"):
        folder = tmp_path_factory.mktemp(name)
        model = tiny_model(name)
        model = getattr(model, "roberta", model)  # without the head, as pre-trained models come
        model.save_pretrained(folder)
        byte_tokenizer(max_length=64 if name == "tiny_roberta" else 256).save_pretrained(folder)
        found[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
        found[name] |= {
            "pytorch_model.bin": b"\x80pickle", "tf_model.h5": b"h5", "onnx/model.onnx": b"onnx",
            "modeling.py": b"raise", "onnx/model.safetensors": b"no", "README.md": b"#",
        }  # fmt: skip
    return found


@pytest.fixture
def empty_hub() -> Iterator[Any]:
    """A running loopback hub without repositories."""
    server = loopback_hub.LoopbackHub()
    yield server
    server.close()


@pytest.fixture
def hub(empty_hub: Any, made: dict[str, dict[str, bytes]]) -> Any:
    """A running loopback hub with repositories of conf/."""
    server = empty_hub
    server.put("FacebookAI/roberta-base", made["tiny_roberta"])
    server.put("openai-community/gpt2", made["tiny_gpt2"])
    server.put("nyu-mll/glue", cola(), kind="dataset")
    server.put("aps/super_glue", boolq(), kind="dataset")
    server.put("tuetschek/e2e_nlg", e2e(), kind="dataset", branch="refs/convert/parquet")
    return server


class Outcome(NamedTuple):
    """How a run ended: exit status, stdout and stderr together."""

    status: int
    out: str

    def assert_refused(self, *words: str) -> None:
        """Status 1 and one line, which has these words."""
        lines = [line for line in self.out.splitlines() if line.startswith("rosa-bench: ")]
        assert self.status == 1, self.out
        assert "Traceback" not in self.out
        assert len(lines) == 1, self.out
        for word in words:
            assert word in lines[0]


TINY = ("device=cpu", "epochs=1", "batch_size=8", "limit_train=16", "limit_eval=8", "max_length=64", "rank=2")


STOPPED = """
import os, signal, sys, rosa_bench
from rosa_bench.training.observers.base import Observer

class Stop(Observer):
    def on_step_start(self, training):
        if training.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

try:
    rosa_bench.run(sys.argv[1:], [Stop()])
except KeyboardInterrupt as error:
    print(error)
"""


SEVERAL = """
import json, sys
from hydra.core.global_hydra import GlobalHydra
from rosa_bench.cli.main import main

several, defaults = json.loads(sys.argv[1]), sys.argv[2:]
sys.argv = ["rosa-bench"]
for overrides in several:
    main([*defaults, *overrides])
    GlobalHydra.instance().clear()
"""


@pytest.fixture
def program(hub: Any, warm_python: list[str], tmp_path: Path) -> Callable[..., Outcome]:
    """``program(["-m", "module"], "task=cola", HF_TOKEN="x")``: Python in a process that knows no other hub."""

    def call(start: list[str], *overrides: str, **environment: str | None) -> Outcome:
        variables = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"), "ROSA_BENCH_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": None,
            "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "NO_PROXY": "127.0.0.1,localhost",
            **environment,
        }  # fmt: skip
        given = {name: value for name, value in variables.items() if value is not None}
        defaults = [one for one in TINY if one.partition("=")[0] not in {it.partition("=")[0] for it in overrides}]
        command = [*warm_python, *start, *overrides, *defaults]
        done = subprocess.run(
            command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=300
        )
        return Outcome(done.returncode, done.stdout + done.stderr)

    return call


@pytest.fixture
def run(program: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """``run("task=cola", HF_TOKEN="x")``: that run."""
    return lambda *overrides, **environment: program(["-m", "rosa_bench.cli.main"], *overrides, **environment)


@pytest.fixture
def runs(program: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """``runs(["task=cola"], ["task=cola", "seed=1"], HF_TOKEN="x")``: these runs, in turn, in one process."""
    return lambda *several, **environment: program(["-c", SEVERAL, json.dumps(several)], **environment)


@pytest.fixture
def interrupt(program: Callable[..., Outcome]) -> Callable[..., None]:
    """``interrupt("task=cola")``: that run, stopped in its third step, with a checkpoint."""

    def call(*overrides: str) -> None:
        done = program(["-c", STOPPED], *overrides)
        assert "stopped by SIGTERM after step" in done.out, done.out

    return call


@pytest.fixture
def records(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """``records()``: the records that the runs left."""
    return lambda files="*/*/*.json": [
        json.loads(path.read_text()) for path in sorted((tmp_path / "results" / "runs").glob(files))
    ]


@pytest.fixture(scope="session")
def other_cola() -> dict[str, bytes]:
    """CoLA with other rows."""
    return cola(seed=1)


@pytest.fixture(scope="session")
def reversed_cola() -> dict[str, bytes]:
    """CoLA with its classes numbered the other way round."""
    return cola(classes=["acceptable", "unacceptable"])
