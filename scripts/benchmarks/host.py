"""Time on the host: start-up, the first word, the first step, plans, tables, and how each grows.

    python -m scripts.benchmarks.host [results/benchmarks] [another checkout]

Prints a table and writes it as JSON. With another checkout the same is measured there too, in turns, and written as
``before``. Seconds are of processor time, user and system, of a whole process unless a name ends in ``wall_s``: medians
of up to three. A busy machine makes them longer, so compare ratios within one run; ``load`` is the
machine's load average over a minute. The package is compiled to bytecode first. ``plan_1000_first_s`` and
``methods_first_s`` have an empty cache; later ones find there what is known of the methods on the model. ``growth`` has
times over that of the first value: of plans by jobs, of tables by records, and of a training step
(`scripts.benchmarks.growth`). Nothing is taken from a GPU. It takes about two minutes of processor time, and as
much again for another checkout.
"""

import json
import os
import pty
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from pathlib import Path

import torch

from scripts.arguments import RESULTS, existing_folder, start
from scripts.benchmarks.growth import growth
from scripts.reporting import SMALL, Figures, write_report

ROOT = Path(__file__).parents[2]
REPEATS, ENOUGH_S = 3, 3.0  # a measurement is repeated until one of them is reached
RECORDS = (1250, 2500, 5000)
SEEDS = {250: 5, 500: 10, 1000: 20}  # of so many jobs
TINY = ("task=grammar", "model=tiny_bert", "method=rosa", "device=cpu", "limit_train=64", "limit_eval=32")
REGRESSION = ("task=synthetic", "task.replicates=1", "method=rosa", "rank=4", "device=cpu")
MINILM = (*TINY, *(f"model.random.{name}={value}" for name, value in SMALL.items()))
JOBS = (
    "task=grammar", "model=tiny_roberta", "device=cpu", "method=lora,rosa", "rank=1,2,4,8,16",
    "lr=1e-4,2e-4,5e-4,1e-3,2e-3",
)  # fmt: skip
FIRST_STEP = """
import sys, rosa_bench
from rosa_bench.training.observers.base import Observer
class First(Observer):
    def on_step_end(self, training):
        raise KeyboardInterrupt
try:
    rosa_bench.run(sys.argv[1:], [First()])
except KeyboardInterrupt:
    sys.exit()
sys.exit("there was no step")
"""


def main(folder: Path = RESULTS, other: Path | None = None) -> None:
    """Run every benchmark, print and write the figures."""
    checkouts = {"now": ROOT, **({"before": other.resolve()} if other else {})}
    load = {"at_start": os.getloadavg()[0], "cores": float(os.cpu_count() or 1)}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for count in RECORDS:
            copy_records(ROOT / "results", place / str(count), count)
        for checkout in checkouts.values():
            processor_s(checkout, place, "-m", "compileall", "-q", str(checkout / "rosa_bench"))
        found = {name: Figures() for name in checkouts}
        for what, measure in measures(place).items():
            seconds: dict[str, list[float]] = {name: [] for name in checkouts}
            while len(seconds["now"]) < REPEATS and sum(seconds["now"]) < ENOUGH_S:
                for name, checkout in checkouts.items():
                    seconds[name].append(measure(checkout))
            for name, values in seconds.items():
                found[name][what] = statistics.median(values)
                print(f"{what}, {name}: {found[name][what]:.2f}", flush=True)
    if other:
        found["before_to_now"] = {what: before / found["now"][what] for what, before in found["before"].items()}
    now = found["now"]
    found["growth"] = Figures()
    for what, sizes in (("plan", SEEDS), ("tables", RECORDS)):
        first = now[f"{what}_{min(sizes)}_s"]
        found["growth"] |= {f"{what}={size}": now[f"{what}_{size}_s"] / first for size in sizes}
    found["growth"] |= growth()
    found["load"] = {**load, "at_end": os.getloadavg()[0]}
    write_report("host", found, folder=folder, what=__doc__, device=torch.device("cpu"))


def measures(place: Path) -> Mapping[str, Callable[[Path], float]]:
    """Return what is measured, by name: each takes a checkout, and returns seconds. Results go to ``place``."""

    def program(*arguments: str) -> Callable[[Path], float]:
        return lambda checkout: processor_s(checkout, place, "-m", "rosa_bench", *arguments)

    def python(code: str, *arguments: str) -> Callable[[Path], float]:
        return lambda checkout: processor_s(checkout, place, "-c", code, *arguments)

    def first(*arguments: str) -> Callable[[Path], float]:
        def measure(checkout: Path) -> float:
            shutil.rmtree(cache_of(checkout, place), ignore_errors=True)
            return program(*arguments)(checkout)

        return measure

    return {
        "help_s": program("--help"),
        "first_word_wall_s": lambda checkout: first_word_s(checkout, place),
        "import_torch_s": python("import torch"),
        "import_run_s": python("import rosa_bench.runs.run"),
        "first_step_regression_s": python(FIRST_STEP, *REGRESSION, "resume=never"),
        "first_step_tiny_s": python(FIRST_STEP, *TINY, "resume=never"),
        "first_step_minilm_s": python(FIRST_STEP, *MINILM, "resume=never"),
        "plan_1000_first_s": first("plan", *JOBS, f"seed=range({SEEDS[1000]})"),
        **{f"plan_{jobs}_s": program("plan", *JOBS, f"seed=range({seeds})") for jobs, seeds in SEEDS.items()},
        "methods_first_s": first("methods"),
        "methods_s": program("methods"),
        "ls_5000_s": program("ls", f"results_dir={place / '5000'}"),
        **{f"tables_{count}_s": program("tables", f"results_dir={place / str(count)}") for count in RECORDS},
    }


def processor_s(checkout: Path, place: Path, *arguments: str) -> float:
    """Run Python on the package in ``checkout``, and return the seconds of processor time that it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    nowhere = subprocess.DEVNULL
    subprocess.run(command, cwd=place, env=surroundings(checkout, place), check=True, stdout=nowhere, stderr=nowhere)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_word_s(checkout: Path, place: Path) -> float:
    """Return the seconds from the start of a run at a terminal to its first output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rosa_bench", *TINY, "epochs=1", "resume=never"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=place, env=surroundings(checkout, place), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        os.read(ours, 1)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def surroundings(checkout: Path, place: Path) -> dict[str, str]:
    """Return the environment in which Python finds the package of a checkout, with a cache of its own in ``place``."""
    own = {"PYTHONPATH": str(checkout), "ROSA_BENCH_CACHE": str(cache_of(checkout, place)), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "PYTHONDONTWRITEBYTECODE": ""}


def cache_of(checkout: Path, place: Path) -> Path:
    """Return the folder of a checkout's cache: an entry of one is no use to another."""
    return place / "cache" / "-".join(checkout.parts[1:])


def copy_records(source: Path, target: Path, count: int) -> None:
    """Copy ``count`` records; when all have been copied once, they are copied again, as runs of other seeds."""
    paths = sorted((source / "runs").glob("*/*/*.json"))
    paths = paths[:: max(1, len(paths) // count)]  # of all tasks, however few are wanted
    for number, path in enumerate(islice(cycle(paths), count)):
        values = json.loads(path.read_text(encoding="utf-8"))
        if copied := number // len(paths):
            values["config"]["seed"] += 1000 * copied
            values["id"] += f"-{copied}"
        to = target / path.relative_to(source).with_name(f"{values['id']}.json")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    start(main, __doc__, existing_folder, existing_folder)
