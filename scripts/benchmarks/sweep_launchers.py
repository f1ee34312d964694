"""A sweep of 16 short runs on one GPU and on two, through joblib and through Ray.

    python -m scripts.benchmarks.sweep_launchers [results/benchmarks] [seconds in all] [runs at once on each GPU]

The runs differ in method, learning rate and seed: RoBERTa-base's shape with random weights, one epoch of 1,000
sentences of the task grammar. On a CPU, four runs of a tiny model in one process and in two show that it works.
``wall_s`` is the time of the whole command: starting the launcher, importing, every run, and stopping. ``runs_s`` is
the sum of what the runs themselves took, ``idle_share`` the share of the jobs' time that no run used. Writes what it
has after each sweep, and ends with the sweep that is not done in time. Ray is left out where it is not installed.
"""

import json
import tempfile
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch

from scripts.arguments import RESULTS, existing_folder, number, start, whole_number
from scripts.benchmarks.several_gpus import run_until
from scripts.benchmarks.whole_run import CLI, ENVIRONMENT, folders, make_model
from scripts.reporting import Figures, write_report

LAUNCHERS = {"joblib": "hydra.launcher.n_jobs", "ray": "hydra.launcher.ray.init.num_cpus"}  # jobs at once on a CPU


def main(folder: Path = RESULTS, limit_s: float = 250, per_gpu: int = 1) -> None:
    """Make the sweep in each way, and write what each took."""
    deadline, figures = time.monotonic() + limit_s, dict[str, Figures]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpus = device.type == "cuda"
    counts = [count for count in (2, 1) if not on_gpus or count <= torch.cuda.device_count()]  # the longer ones last
    launchers = [launcher for launcher in LAUNCHERS if launcher != "ray" or find_spec("ray") is not None]
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        command = runs_on_gpu(work) if on_gpus else runs_on_cpu()
        for count, launcher in product(counts, launchers):
            jobs = f"jobs_per_gpu={per_gpu}" if on_gpus else f"{LAUNCHERS[launcher]}={count}"
            title = f"{launcher}, {count} {'GPUs' if on_gpus else 'processes'}"
            print(title, flush=True)
            started = time.perf_counter()
            results = work / f"{launcher}-{count}"
            if not made([*command, f"+launch={launcher}", jobs, *folders(results)], count, deadline):
                break
            figures[title] = figures_of(results, time.perf_counter() - started, count * (per_gpu if on_gpus else 1))
            write_report("sweep_launchers", figures, folder=folder, what=__doc__, device=device)


def runs_on_gpu(work: Path) -> list[str]:
    """Return the settings of 16 runs that load the same weights."""
    model = make_model(work / "model", None)
    return ["task=grammar", "model=roberta_base", f"model.path={model}", "limit_train=1000", "limit_eval=200",
            "max_length=64", "epochs=1", "rank=8", "method=lora,rosa", "lr=1e-3,1e-4", "seed=0,1,2,3"]  # fmt: skip


def runs_on_cpu() -> list[str]:
    """Return the settings of four runs that take no time."""
    return ["task=grammar", "model=tiny_roberta", "device=cpu", "limit_train=32", "limit_eval=32", "epochs=1",
            "rank=2", "method=lora,rosa", "seed=0,1"]  # fmt: skip


def made(command: list[str], gpus: int, deadline: float) -> bool:
    """Make a sweep with the first few GPUs. Returns whether it was done in time."""
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))} if torch.cuda.is_available() else {}
    return run_until(deadline, [*CLI, "-m", *command], {**ENVIRONMENT, **shown})


def figures_of(results: Path, wall_s: float, at_once: int) -> Figures:
    """Return what a sweep took, and how much of it its runs did. Raises RuntimeError if one of them failed."""
    records = [json.loads(path.read_text()) for path in Path(results, "runs").rglob("*.json")]
    ends = {record["status"] for record in records}
    if ends != {"completed"}:
        raise RuntimeError(f"the runs in {results} ended as {', '.join(sorted(ends)) or 'nothing'}")
    runs_s = sum(record["time_s"]["total"] for record in records)
    return {
        "runs": len(records),
        "wall_s": wall_s,
        "runs_s": runs_s,
        "idle_share": 1 - runs_s / (wall_s * at_once),
        "runs_a_minute": 60 * len(records) / wall_s,
    }


if __name__ == "__main__":
    start(main, __doc__, existing_folder, number, whole_number)
