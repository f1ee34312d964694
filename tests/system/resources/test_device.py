import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rosa_bench.system.errors import UserError
from rosa_bench.system.resources import device
from rosa_bench.system.resources.device import (
    autocast,
    describe,
    memory_limit_bytes,
    resolve_device,
    resolve_precision,
    sharers,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process holds one of the fake devices."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    device._own_gpu.cache_clear()
    device._hold.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, *, devices: int, bfloat16: bool = True) -> None:
    """Fake a machine with this many CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bfloat16)


@pytest.mark.parametrize(("devices", "name", "expected"), [
    (0, "auto", "cpu"), (0, "cpu", "cpu"), (1, "auto", "cuda:0"), (1, "cuda", "cuda:0"), (1, "cpu", "cpu"),
    (2, "cuda:1", "cuda:1"), (2, "auto", "cuda:0"),
])  # fmt: skip
def test_device_names_resolve(monkeypatch: pytest.MonkeyPatch, devices: int, name: str, expected: str) -> None:
    pretend(monkeypatch, devices=devices)
    assert resolve_device(name) == torch.device(expected)


def test_memory_is_limited_by_what_is_given_or_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 if device == gpu else 0, 9))
    assert [memory_limit_bytes(place, 0.5) for place in (CPU, gpu)] == [2**29, 2**29]
    assert memory_limit_bytes(gpu, None) == 5
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 9 kB\nMemAvailable:  3 kB\n")
    assert memory_limit_bytes(CPU, None) == 3072
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 9 kB\n")
    assert memory_limit_bytes(CPU, None) is None


# Imports torch once. Each line of its input forks a process that answers and waits, or kills one.
PROCESSES = """
import os, signal, sys, tempfile, torch
from types import SimpleNamespace
tempfile.tempdir = sys.argv[1]
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
from rosa_bench.system.resources.device import resolve_device, sharers

def claim(_):
    return [str(resolve_device("auto", own_gpu=True)) for _ in range(2)]

def share(card):
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid=card)
    return [sharers(torch.device("cuda", 0))]

def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

children = []
for line in sys.stdin:
    what, word = line.split()
    if what == "kill":
        end(children.pop(int(word)))
        print("killed", flush=True)
    elif child := os.fork():
        children.append(child)
    else:
        try:
            print(*globals()[what](word), flush=True)
        except Exception as error:
            print(error, flush=True)  # or the test would wait
        signal.pause()
for child in children:
    end(child)
"""


@pytest.fixture
def processes(warm_python: list[str], tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """``processes("claim")``: what another process answers; ``processes("kill", "0")`` ends the first one."""
    with subprocess.Popen(
        [*warm_python, "-c", PROCESSES, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout
        asked, answers = program.stdin, program.stdout

        def ask(what: str, word: str = "-") -> list[str]:
            print(what, word, file=asked, flush=True)
            return answers.readline().split()

        yield ask


def test_resolving_a_device_claims_it_only_with_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(resolve_device("auto")) for _ in range(3)] == ["cuda:0"] * 3
    assert not list(tmp_path.iterdir())
    assert str(resolve_device("auto", own_gpu=True)) == "cuda:0"
    assert list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_share_gpus_evenly_and_release_them(processes: Callable[..., list[str]]) -> None:
    # All runs of one process use the same device.
    assert [processes("claim") for _ in range(4)] == [["cuda:0"] * 2, ["cuda:1"] * 2, ["cuda:0"] * 2, ["cuda:1"] * 2]
    processes("kill", "1")
    assert processes("claim") == ["cuda:1"] * 2


@pytest.mark.parametrize(("devices", "name"), [
    (0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:2"), (2, "cuda:-1"), (2, "cuda:x"), (2, "cuda:1:1"),
])  # fmt: skip
def test_missing_device_raises(monkeypatch: pytest.MonkeyPatch, devices: int, name: str) -> None:
    pretend(monkeypatch, devices=devices)
    with pytest.raises(UserError, match=f"device={name} does not exist: .* {devices} CUDA devices?; use device=auto$"):
        resolve_device(name)


@pytest.mark.parametrize(("name", "device", "bfloat16", "expected"), [
    ("auto", "cpu", True, "float32"), ("auto", "cuda", True, "bfloat16"), ("auto", "cuda", False, "float32"),
    ("float32", "cuda", True, "float32"), ("bfloat16", "cpu", True, "bfloat16"),
])  # fmt: skip
def test_auto_precision_depends_on_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, bfloat16: bool, expected: str
) -> None:
    pretend(monkeypatch, devices=1, bfloat16=bfloat16)
    assert resolve_precision(name, torch.device(device)) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_sets_the_precision_of_products_and_leaves_weights_alone(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(3, 2)
    context = autocast(precision, CPU)
    for _ in range(2):  # it can be entered again at every step
        with context():
            assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 3)).dtype == torch.float32


def test_describe_returns_json_for_the_record() -> None:
    described = describe(CPU)
    assert described["type"] == "cpu"
    assert described["name"]
    assert described["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(described)) == described


@pytest.mark.slow
def test_processes_on_one_gpu_are_counted_until_they_end(
    processes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="a"))
    assert [processes("share", card) for card in "aab"] == [["1"], ["2"], ["1"]]
    assert [sharers(torch.device("cuda", 0)) for _ in range(2)] == [3, 3]
    processes("kill", "0")
    assert sharers(torch.device("cuda", 0)) == 2


def test_without_a_gpu_or_a_folder_for_locks_nothing_is_known_of_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sharers(CPU) is None
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert sharers(torch.device("cuda", 0)) is None
