"""Sweeps through Hydra's launcher plugins, each for real; without the plugin its test is skipped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import hydra
import pytest
from omegaconf import OmegaConf

from rosa_bench.cli.launchers.workers import BETWEEN
from rosa_bench.config.composing.compose import composing

# A regression: its processes need not import evaluate, nor what that imports.
SMALL = ("task=synthetic", "method=lora", "limit_train=200", "limit_eval=50", "epochs=1", "device=cpu")


class Sweep(NamedTuple):
    status: int
    out: str
    err: str
    records: dict[float, dict]  # by learning rate


def sweep(folder: Path, *arguments: str, python: Sequence[str] = (sys.executable,), **environment: str) -> Sweep:
    command = [*python, "-m", "rosa_bench.cli.main", "-m", *SMALL, *arguments]
    variables = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        command, cwd=folder, env={**variables, **environment}, capture_output=True, text=True, check=False
    )
    records = [json.loads(path.read_text()) for path in (folder / "results/runs").rglob("*.json")]
    return Sweep(done.returncode, done.stdout, done.stderr, {record["config"]["lr"]: record for record in records})


def needs(plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"hydra-{plugin}-launcher is not installed")


def assert_all_ran_and_one_failed(done: Sweep, *lrs: float, threads: int, printed: str) -> None:
    """The run at 1e30 failed, and those at ``lrs`` completed."""
    assert done.status == 1, done.err
    assert {lr: record["status"] for lr, record in done.records.items()} == {
        1e30: "failed", **dict.fromkeys(lrs, "completed"),
    }  # fmt: skip
    assert {record["device"]["threads"] for record in done.records.values()} == {threads}
    assert printed.count("the training loss is") == 1, printed
    reason = done.records[1e30]["error"].removeprefix("TrainingFailedError: ")
    assert f"rosa-bench: the training cannot go on: {reason};" in printed
    counted = ("{} completed, 1 failed", "1 failed, {} completed")
    assert any(f"rosa-bench: of {len(lrs) + 1} runs: {said.format(len(lrs))}" in done.err for said in counted), done.err
    assert "Traceback" not in done.err + printed


@pytest.mark.parametrize(("name", "between"), [("joblib", False), ("ray", True), ("submitit", None)])
def test_launchers_of_workers_are_known_by_the_class_that_hydra_instantiates(name: str, between: bool | None) -> None:
    needs(name)
    launch = "slurm" if name == "submitit" else name
    with composing():
        composed = hydra.compose("config", overrides=[f"+launch={launch}"], return_hydra_config=True)
    assert BETWEEN.get(composed.hydra.launcher._target_) is between


# In a process of its own, because a broken pool leaves threads and variables behind.
KILLED = """
import signal
from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError
from rosa_bench.cli.messages import explain

try:
    ProcessPoolExecutor(max_workers=1).submit(signal.raise_signal, signal.SIGKILL).result()
except TerminatedWorkerError as error:
    print(explain(error))
"""


def test_a_worker_that_the_system_killed_is_said_in_plain_words() -> None:
    pytest.importorskip("joblib")
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    [message] = done.stdout.splitlines()
    assert message.startswith("a process of the sweep was killed (SIGKILL(-9))")
    assert "hydra.launcher.n_jobs" in message


@pytest.mark.slow
def test_joblib_runs_jobs_in_processes_that_share_the_cores(warm_python: list[str], tmp_path: Path) -> None:
    needs("joblib")
    import joblib

    done = sweep(tmp_path, "+launch=joblib", "hydra.launcher.n_jobs=2", "lr=1e30,1e-3,1e-4", python=warm_python)
    assert_all_ran_and_one_failed(done, 1e-3, 1e-4, threads=max(1, joblib.cpu_count() // 2), printed=done.err)
    assert "n_jobs=2,backend=loky" in done.out


@pytest.mark.long
def test_a_traceback_of_another_process_is_shown_on_demand(tmp_path: Path) -> None:
    needs("joblib")
    done = sweep(tmp_path, "+launch=joblib", "hydra.launcher.n_jobs=2", "lr=1e30,2e30", ROSA_BENCH_TRACEBACK="1")
    assert done.status == 1
    assert done.err.count("Traceback (most recent call last)") == 2, done.err
    assert "in run_job" in done.err
    assert "TrainingFailedError: the training loss is" in done.err


@pytest.mark.long
def test_submitit_runs_jobs_and_keeps_what_they_print(tmp_path: Path) -> None:
    needs("submitit")
    local = ("hydra/launcher=submitit_local", "+hydra.job.env_set.OMP_NUM_THREADS=1")
    done = sweep(tmp_path, *local, "lr=1e30,1e-3")
    logs = list((tmp_path / "outputs/.submitit").glob("*/*_log.err"))
    assert len(logs) == 2
    assert_all_ran_and_one_failed(done, 1e-3, threads=1, printed="".join(path.read_text() for path in logs))


@pytest.mark.long
def test_ray_makes_runs_in_two_workers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    needs("ray")
    command = ("+launch=ray", "hydra.launcher.ray.init.num_cpus=2", "lr=1e30,1e-3,1e-2,1e-4")
    home = {"HOME": str(tmp_path)}  # where Ray writes a token, and by which its processes are known
    done = sweep(tmp_path, *command, **home)
    assert_all_ran_and_one_failed(done, 1e-3, 1e-2, 1e-4, threads=1, printed=done.err)
    assert "Ray has 2 CPUs and 0 GPUs" in done.out
    jobs = {line.partition(")")[0] for line in done.out.splitlines() if "training 21,760 of 81,920" in line}
    assert len(jobs) == 2, done.out
    assert done.out.count("epoch 1/1") == 3, done.out  # Ray would leave out lines that resemble each other
    assert "\x1b" not in done.out + done.err
    lines = done.out.splitlines()
    assert max(n for n, line in enumerate(lines) if "pid=" in line) < lines.index("next: rosa-bench ls")
    assert len(done.err.splitlines()) == 2, done.err
    again = sweep(tmp_path, *command, **home)
    assert again.status == 1
    assert again.records == done.records
    assert (again.out.count("is completed already"), again.err.count("failed before")) == (3, 1)
    assert not [process for process in Path("/proc").glob("[0-9]*") if is_at_home(process, tmp_path)]


@pytest.mark.long
def test_ctrl_c_on_ray_leaves_a_checkpoint_of_each_run(tmp_path: Path) -> None:
    needs("ray")
    endless = ("task=synthetic", "method=lora", "limit_train=200", "limit_eval=50", "epochs=100000", "device=cpu")
    command = [sys.executable, "-m", "rosa_bench.cli.main", "-m", *endless, "checkpoint_s=100000", "lr=1e-3,1e-4,1e-5",
               "+launch=ray", "hydra.launcher.ray.init.num_cpus=2"]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    written = tmp_path / "written"
    with (
        written.open("w") as file,
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as started,
    ):  # fmt: skip
        lines: list[str] = []
        while started.poll() is None and len({line.partition(")")[0] for line in lines if ") epoch " in line}) < 2:
            time.sleep(0.1)
            lines = written.read_text().splitlines()
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does
        _, errors = started.communicate()
    assert started.returncode == 130
    assert errors.splitlines() == ["rosa-bench: stopped from the keyboard; the same command continues"]
    assert len(list(tmp_path.glob("outputs/*/checkpoints/step-*"))) == 2
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/runs").rglob("*.json")]
    assert [record["status"] for record in records] == ["interrupted"] * 2
    assert not [process for process in Path("/proc").glob("[0-9]*") if is_at_home(process, tmp_path)]


def is_at_home(process: Path, home: Path) -> bool:
    """Return whether a process was started with this HOME."""
    try:
        return f"HOME={home}".encode() in Path(process, "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_signals_stay_ours_and_all_lines_are_printed_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from rosa_bench.cli.launchers.on_ray import Cluster

    for name in ("RAY_AUTH_MODE", "RAY_COLOR_PREFIX", "RAY_DEDUP_LOGS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # to be undone
        monkeypatch.delenv(name)
    seen: dict[str, dict[str, object]] = {}

    def init(**settings: object) -> None:
        seen["settings"], seen["environment"] = settings, dict(os.environ)  # pyrefly: ignore[unsupported-operation]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def ours(*_: object) -> None: ...

    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(init=init, cluster_resources=lambda: {"CPU": 4.0}, shutdown=lambda: None)
    )
    start = {"address": "local", "num_cpus": None}
    config = OmegaConf.create({"hydra": {"launcher": {"ray": {"init": start}}}})
    before = signal.signal(signal.SIGTERM, ours)
    try:
        Cluster().on_multirun_start(config)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen["settings"] == start
    expected = {"RAY_DEDUP_LOGS": "0", "RAY_AUTH_MODE": "token", "RAY_COLOR_PREFIX": "0"}
    assert expected.items() <= seen["environment"].items()


@pytest.mark.slow
def test_slurm_is_asked_for_an_array_with_the_settings(tmp_path: Path) -> None:
    needs("submitit")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"srun": "exit 1", "sbatch": 'cp "$1" "$ASKED"; echo "no such partition" >&2; exit 1'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    asked = tmp_path / "asked.sh"
    path = f"{programs}:{os.environ['PATH']}"
    done = sweep(tmp_path, "+launch=slurm", "hydra.launcher.partition=gpu", "lr=1e-3,1e-4", PATH=path, ASKED=str(asked))
    lines = asked.read_text().splitlines()
    for line in ("--array=0-1%2", "--cpus-per-task=4", "--gpus-per-node=1", "--partition=gpu", "--time=240"):
        assert any(one.startswith(f"#SBATCH {line}") for one in lines), lines
    assert "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK" in lines
    assert done.status == 1
    assert "rosa-bench: " in done.err
    assert "no such partition" in done.err
