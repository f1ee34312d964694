"""Several processes make the run that one process makes. The processes are real, on the CPU, joined by gloo."""

import gc
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rosa_bench import api
from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import Changed, Rotation
from rosa_bench.records.store import load_records
from rosa_bench.system import processes
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import seed_of
from rosa_bench.training.checkpoint import Snapshot, joined
from rosa_bench.training.distributed.together import OwnRandomness, Together, buckets
from rosa_bench.training.loop import change

HERE = Path(__file__).parent
TREE = HERE.parents[2]
perform = runpy.run_path(str(HERE / "run_in_processes.py"))["perform"]  # tests are no package

# The last batch of an epoch has one row, so one of two processes has none.
ENCODER = ("task=grammar", "model=tiny_roberta", "max_length=32", "limit_train=41", "limit_eval=21", "batch_size=8",
           "epochs=2")  # fmt: skip
# The labels are tokens, so that rows have different numbers of them.
DECODER = ("task=restaurants", "model=tiny_llama", "limit_train=19", "limit_eval=5", "batch_size=6", "epochs=1",
           "task.decoding.max_new_tokens=8")  # fmt: skip
ROSA = ("method=rosa", "rank=2", "method.resample_every=4", "method.resample_unit=steps")
CLIPPED = ("optimizer.clip_norm=0.05",)
RUNS: dict[str, tuple[str, ...]] = {
    "rosa": (*ENCODER, *ROSA, "lr=3e-3"),
    "ft": (*ENCODER, "method=ft", "lr=1e-3", *CLIPPED),
    "lora": (*DECODER, "method=lora", "rank=2", "lr=1e-2", "accumulate=2", *CLIPPED),
}
HOW = ("data", "sharded")
# A few steps of every kind of method, on one of its settings. The last of the three steps of an epoch has one row.
FEW = ("task=grammar", "model=tiny_roberta", "max_length=32", "limit_train=17", "limit_eval=9", "batch_size=8",
       "epochs=1", "lr=1e-3")  # fmt: skip
RESAMPLED = ("rank=2", "method.resample_every=1", "method.resample_unit=steps")
OTHERS: dict[str, tuple[str, ...]] = {
    "bitfit data": ("method=bitfit",),
    "bitfit sharded": ("method=bitfit",),
    "houlsby data": ("method=houlsby",),
    "ia3 data": ("method=ia3",),
    "relora data": ("method=lora", *RESAMPLED),
    "rso data": ("method=rso", *RESAMPLED),
    "rso sharded": ("method=rso", *RESAMPLED, "method.moments=reset"),
}
ON_CPU = ("device=cpu", "checkpoint_s=1000")
MISTAKES = {
    "none": (
        (*ENCODER, "method=lora", "device=cpu"),
        "parallel=none is for one process, and 2 were started together; use parallel=data or parallel=sharded, or "
        "start the program by itself",
    ),
    "sweep": (
        ("-m", *ENCODER, "method=lora,rosa", "device=cpu", "parallel=data"),
        "a sweep is not for several processes, which make one run at a time; start it by itself",
    ),
}


def launch(command: Sequence[str | Path], folder: Path, count: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Start a program as a launcher does, once for each process, and wait for all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    surroundings = {
        **os.environ, "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            command, cwd=folder, text=True,
            env={**surroundings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        ends = [process.communicate(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *end)
        for process, end in zip(started, ends, strict=True)
    ]


def job(
    folder: Path, name: str, overrides: Sequence[str], *, exact: Sequence[str] = ON_CPU, **actions: Any
) -> dict[str, Any]:
    where = [f"results_dir={folder / name}", f"output_dir={folder / name}"]
    return {"overrides": [*overrides, *where, *exact], "out": str(folder / name), **actions}


def came_to(folder: Path, name: str) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the losses by step, and the subspaces and weights, of a job."""
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def ends(warm_python: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs: by one process, by two, and handed over from one to the other in the middle.

    One pair of processes makes all that two make, because starting them costs more than the runs. It ends with the run
    in which one of them is killed.
    """
    folder = tmp_path_factory.mktemp("parallel")
    gc.freeze()  # a run collects garbage, which would take as long as its steps
    together = [
        {"arguments": [*arguments], "out": str(folder / f"mistake {name}")}
        for name, (arguments, _) in MISTAKES.items()
    ]  # fmt: skip
    for name, overrides in RUNS.items():
        perform(job(folder, f"{name} alone", overrides))
        together += [job(folder, f"{name} {how}", [*overrides, f"parallel={how}"]) for how in HOW]
    for name, method in OTHERS.items():
        perform(job(folder, f"{name} alone", [*FEW, *method]))
        together.append(job(folder, name, [*FEW, *method, f"parallel={name.split()[1]}"]))
    handed = {how: [*RUNS["rosa"], f"parallel={how}"] for how in HOW}
    for how, overrides in handed.items():
        perform(job(folder, f"up {how}", overrides, stop=(0, 7)))
        together.append(job(folder, f"up {how}", overrides))
        together.append(job(folder, f"same {how}", overrides, stop=(0, 7)))
        together.append(job(folder, f"same {how}", overrides))
        together.append(job(folder, f"down {how}", overrides, stop=(1, 5)))
    killed = job(folder, "killed", [*handed["data"], "checkpoint_s=0"], exact=["device=cpu"], kill=(1, 6))
    (folder / "jobs.json").write_text(json.dumps([*together, killed]))
    (folder / "current").mkdir()
    first, second = launch([*warm_python, HERE / "run_in_processes.py", folder / "jobs.json"], folder / "current")
    assert (first.returncode, second.returncode) == (143, -signal.SIGKILL), first.stderr + second.stderr
    assert "another process of this run has ended" in first.stderr.splitlines()[-1]
    for how, overrides in handed.items():
        assert {record.status for record in load_records(folder / f"down {how}")} == {"interrupted"}
        perform(job(folder, f"down {how}", overrides))
    gc.unfreeze()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_run_of_one(ends: Path, name: str, how: str) -> None:
    assert_same(ends, f"{name} {how}", f"{name} alone")
    _, tensors = came_to(ends, f"{name} {how}")
    assert (name == "rosa") == any(key.startswith("subspace") for key in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_train_in_two_processes_as_in_one(ends: Path, name: str) -> None:
    assert_same(ends, name, f"{name} alone")


def assert_same(ends: Path, name: str, alone_name: str) -> None:
    losses, tensors = came_to(ends, name)
    expected_losses, expected = came_to(ends, alone_name)
    assert losses
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert tensors
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        torch.testing.assert_close(
            tensor, expected[key], rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    [record], [alone] = load_records(ends / name), load_records(ends / alone_name)
    assert record.device.processes == 2
    for epoch, single in zip(record.scores.epochs, alone.scores.epochs, strict=True):
        assert epoch.scores == pytest.approx(single.scores, rel=1e-4, abs=1e-6)
    assert record.selected == pytest.approx(alone.selected, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("direction", ["up", "same", "down"])
def test_a_run_goes_on_in_this_or_another_number_of_processes(ends: Path, direction: str, how: str) -> None:
    losses, tensors = came_to(ends, f"{direction} {how}")  # of the second part
    expected_losses, expected = came_to(ends, "rosa alone")
    assert 0 < len(losses) < len(expected_losses)
    assert losses == pytest.approx({step: expected_losses[step] for step in losses}, rel=1e-6)
    for key, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=2e-6)
    [record] = load_records(ends / f"{direction} {how}")
    assert (record.status, record.device.processes) == ("completed", {"up": 2, "same": 2, "down": 1}[direction])


@pytest.mark.slow
def test_the_death_of_one_process_ends_the_run_which_can_go_on(ends: Path) -> None:
    [record] = load_records(ends / "killed")
    assert (record.status, len(record.scores.epochs)) == ("interrupted", 1)
    perform(job(ends, "killed", [*RUNS["rosa"], "parallel=data"]))
    losses, _ = came_to(ends, "killed")
    assert min(map(int, losses)) == 7
    assert load_records(ends / "killed")[0].status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_once(ends: Path, name: str) -> None:
    first, second = (json.loads((ends / f"mistake {name}.{rank}.json").read_text()) for rank in (0, 1))
    assert first == {"status": 1, "printed": f"rosa-bench: {MISTAKES[name][1]}\n"}
    assert second == {"status": 1, "printed": ""}
    assert not list((ends / "current").iterdir())


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=ia3"], "method=ia3 cannot; use parallel=data"),
        (["method=lora", "method.resample_every=1"], "method.resample_every is above 0"),
        (["method=rosa", "method.stagger=true"], "method.stagger needs whole weights"),
        (["method=lora", "compile=default"], "use compile=none, or parallel=data"),
        (["method=lora", "cuda_graphs=always"], "use cuda_graphs=auto, or parallel=data"),
        (["method=lora", "offload=layers", "gradient_checkpointing=true"], "use offload=null, or parallel=data"),
        (["method=lora", "packed=4"], "parallel=sharded does not work with it"),
    ],
)  # fmt: skip
def test_what_sharded_weights_do_not_go_with_is_refused(
    compose: Callable[..., RunConfig], overrides: list[str], reason: str
) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        compose("task=grammar", "model=tiny_roberta", "parallel=sharded", *overrides)


def test_a_run_is_named_by_how_it_is_parallel_not_by_the_number_of_processes(
    compose: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_of(how: str) -> str:
        return api.resolve(compose("task=grammar", "model=tiny_roberta", "device=cpu", f"parallel={how}")).id

    one = run_of("data")
    assert len({one, run_of("none"), run_of("sharded")}) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run_of("data") == one


@pytest.mark.parametrize(
    ("surroundings", "expected"),
    [
        ({}, (1, 0)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (1, 0)),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, (4, 3)),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "do not go together"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "do not go together"),
    ],
)
def test_the_launchers_variables(
    monkeypatch: pytest.MonkeyPatch, surroundings: dict[str, str], expected: tuple[int, int] | str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            processes.launched()
    else:
        assert (processes.launched(), processes.rank()) == expected


def test_buckets_keep_order_types_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rosa_bench.training.distributed.together.BUCKET", 10)
    sizes = [4, 6, 1, 30, 2]
    gradients = [torch.zeros(size, dtype=torch.float64 if size == 2 else torch.float32) for size in sizes]
    assert [[len(one) for one in bucket] for bucket in buckets(gradients)] == [[4, 6], [1], [30], [2]]


def test_each_process_draws_dropout_masks_of_its_own_and_gets_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    training: Any = SimpleNamespace(step=5, device=torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "3")

    def drawn(rank: int, earlier: Snapshot | None = None) -> list[float]:
        monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(0)
        OwnRandomness(7, earlier).on_train_start(training)
        return torch.rand(2).tolist()

    assert drawn(0) == torch.rand(2, generator=torch.Generator().manual_seed(0)).tolist()
    for rank in (1, 2):
        own = torch.Generator().manual_seed(seed_of(7, f"process {rank}", 5))
        assert drawn(rank) == torch.rand(2, generator=own).tolist()
    states = torch.stack([torch.Generator().manual_seed(seed).get_state() for seed in (10, 11)])
    earlier = joined(processes=Snapshot({"torch": states}, {}))
    assert drawn(1, earlier) == torch.rand(2, generator=torch.Generator().manual_seed(11)).tolist()
    assert drawn(2, earlier) == drawn(2)  # it was not there when the checkpoint was written


def test_moments_follow_the_first_processs_change_of_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, followed = torch.eye(2), -torch.eye(2), []
    changed = Changed(rotate=[Rotation(nn.Parameter(torch.zeros(3, 2)), ours)])
    training: Any = SimpleNamespace(
        model=nn.Module(), step=0, length=None, follow=lambda found: followed.append(found.rotate[0].matrix.clone()),
        method=SimpleNamespace(before_step=lambda *_, **__: changed, state=lambda _: {}),
    )  # fmt: skip
    monkeypatch.setattr(processes, "take_from", lambda tensor: tensor.copy_(theirs))
    change(training, headroom_bytes=None, loss=lambda: torch.zeros(()), together=Together(sharded=False))
    assert torch.equal(followed[0], theirs)


# On two GPUs


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_make_the_run_of_one(tmp_path: Path) -> None:
    together, exact = [], ["precision=float32", "device=cuda", "checkpoint_s=1000"]
    kinds = {
        "data": (), "sharded": (), "captured": ("cuda_graphs=always",),
        "offloaded": ("offload=layers", "gradient_checkpointing=true"),
    }  # fmt: skip
    tried = {name: [kind for kind in kinds if (name, kind) != ("ft", "offloaded")] for name in RUNS}
    for name, overrides in RUNS.items():
        perform(job(tmp_path, f"{name} alone", overrides, exact=exact))
        for kind in tried[name]:
            how, more = "sharded" if kind == "sharded" else "data", kinds[kind]
            together.append(job(tmp_path, f"{name} {kind}", [*overrides, f"parallel={how}", *more], exact=exact))
    (tmp_path / "jobs.json").write_text(json.dumps(together))
    for end in launch([sys.executable, HERE / "run_in_processes.py", tmp_path / "jobs.json"], tmp_path):
        print(end.stderr[-4000:])
        assert end.returncode == 0
    for name in RUNS:
        expected, _ = came_to(tmp_path, f"{name} alone")
        for kind in tried[name]:
            losses, _ = came_to(tmp_path, f"{name} {kind}")
            worst = max(abs(losses[step] / expected[step] - 1) for step in expected)
            print(f"{name} {kind}: losses differ by {worst:.1e} at most")
            assert losses == pytest.approx(expected, rel=1e-3)
