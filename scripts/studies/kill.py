"""Kill the program at random moments, start it again, and compare the end with that of an undisturbed one.

    python -m scripts.studies.kill 60            60 kills, seed 0
    python -m scripts.studies.kill 500 3         500 kills, seed 3
    python -m scripts.studies.kill 40 0 sweep    of one kind: classifier, text, sweep, tables or pull

A kill is SIGKILL in most cases, else SIGTERM or Ctrl-C. After up to four kills the same command is left alone. It must
end with status 0, with the same records (but for times), models, tables and files as an undisturbed one. Every exit
status must be a documented one, every JSON file readable after every kill, and files of others unchanged. No process
may survive its command, and no temporary file may survive the command after the next. Models are tiny and random, and
no network is used. Source of figures in docs/reliability.md. Seven seconds per kill on two CPU cores.

Runs, tables and pulls are processes forked from this one, in which the libraries are imported already, so that kills
hit their work. Sweeps are started as a user starts them. Exits with status 1 if a promise was broken.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box, get_console
from rich.table import Table

from rosa_bench.cli.commands.models import pull_named
from rosa_bench.cli.main import main as program
from rosa_bench.cli.messages import errors_reported
from rosa_bench.runs import run as _imported_early  # noqa: F401 - a forked process then starts at once
from scripts.arguments import one_of, start, whole_number

SIGNALS = {signal.SIGKILL: 7, signal.SIGTERM: 2, signal.SIGINT: 2}  # and how often each is sent
DOCUMENTED = {signal.SIGKILL: (137,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
KINDS = ("classifier", "text", "sweep", "tables", "pull")  # of commands
KILLS_PER_COMMAND = 4
PATIENCE_S = 120  # for a command that was asked to stop, or left alone
GONE_S = 15  # within which the workers of a killed sweep must have ended
TEMPORARY = "most temporary files after a kill"
DIFFERS = ("time_s", "memory_bytes", "started_at")  # between two records of the same run

TINY = ("device=cpu", "checkpoint_s=0", "save_model=true", "method=rosa", "rank=2", "protocol=fair")
OFTEN = ("method.resample_every=3", "method.resample_unit=steps")
CLASSIFIER = (
    "task=grammar", "model=tiny_roberta", "limit_train=120", "limit_eval=40", "batch_size=8", "epochs=3", "lr=3e-3",
)  # fmt: skip
TEXT = (
    "task=restaurants", "model=tiny_gpt2", "limit_train=40", "limit_eval=4", "batch_size=8", "epochs=3", "lr=3e-3",
    "task.decoding.beams=2", "task.decoding.max_new_tokens=8",
)  # fmt: skip
SWEEP = ("-m", "+launch=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2,3")


@dataclass
class Kind:
    """A kind of command to kill: how to start one in a folder, and how often relative to the others."""

    share: int
    start: Callable[[Path], int]
    prepare: Callable[[Path], None] = lambda _folder: None
    seconds: float = 0.0  # of an undisturbed one
    outcome: dict[str, str] = field(default_factory=dict)  # of an undisturbed one
    seen: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def main(kills: int = 60, seed: int = 0, *chosen: str) -> None:
    """Kill, compare, and print a table."""
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    place = Path(tempfile.mkdtemp(prefix="rosa-bench-kill-"))
    kinds = {name: kind for name, kind in made(place / "shared").items() if name in (chosen or KINDS)}
    for name, kind in kinds.items():
        measure(kind, place / name / "undisturbed")
        get_console().print(f"{name}: {kind.seconds:.1f} s undisturbed")
    draw = random.Random(seed)
    while (left := kills - sum(kind.seen["kills"] for kind in kinds.values())) > 0:
        # The kind that is furthest behind its share, so that a small campaign covers all of them too.
        name, kind = min(kinds.items(), key=lambda item: item[1].seen["kills"] / item[1].share)
        folder = place / name / f"{kind.seen['commands']}"
        before = len(kind.broken)
        disturb(kind, folder, draw, most=min(left, KILLS_PER_COMMAND))
        if len(kind.broken) == before:
            shutil.rmtree(folder)
        for line in kind.broken[before:]:
            get_console().print(f"BROKEN {name}: {line} (see {folder})", markup=False, soft_wrap=True)
    show(kinds)
    if any(kind.broken for kind in kinds.values()):
        sys.exit(1)
    shutil.rmtree(place)


def made(shared: Path) -> dict[str, Kind]:
    """Return the `KINDS` of commands by name. What several commands read is made in ``shared``."""
    records, index = shared / "records", shared / "index"
    return {
        "classifier": Kind(4, lambda folder: forked(folder, lambda: program([*CLASSIFIER, *TINY, *OFTEN]))),
        "text": Kind(2, lambda folder: forked(folder, lambda: program([*TEXT, *TINY, *OFTEN]))),
        "sweep": Kind(2, lambda folder: spawned(folder, [*SWEEP, *CLASSIFIER, *TINY, *OFTEN])),
        "tables": Kind(
            1,
            lambda folder: forked(folder, lambda: program(["tables"])),
            lambda folder: copy_records(records, folder),
        ),
        "pull": Kind(1, lambda folder: forked(folder, lambda: pull(index)), lambda _folder: make_index(index)),
    }


# One command, killed


def measure(kind: Kind, folder: Path) -> None:
    """Let a command end undisturbed, and remember how long it takes and what it leaves."""
    set_up(kind, folder)
    started = time.monotonic()
    if (status := ended(kind.start(folder), PATIENCE_S)) != 0:
        raise RuntimeError(f"an undisturbed command ended with status {status}: {printed(folder)}")
    kind.seconds, kind.outcome = time.monotonic() - started, outcome(folder)


def set_up(kind: Kind, folder: Path) -> None:
    """Make a command's folder, with files that belong to somebody else."""
    for place in ("tmp", "results/runs", "outputs/another-run/checkpoints/step-000000001-epochs-000000"):
        (folder / place).mkdir(parents=True)
        (folder / place / "notes.txt").write_text("not yours\n")
    kind.prepare(folder)


def disturb(kind: Kind, folder: Path, draw: random.Random, *, most: int) -> None:
    """Kill a command a few times, starting it again each time, then leave it alone, and check what it promises."""
    set_up(kind, folder)
    kind.seen["commands"] += 1
    for _ in range(draw.randint(1, most)):
        number = draw.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        everyone = number == signal.SIGINT or draw.random() < 0.5  # a terminal sends Ctrl-C to every process
        child = kind.start(folder)
        time.sleep(draw.uniform(0, kind.seconds))
        with suppress(ProcessLookupError):
            (os.killpg if everyone else os.kill)(child, number)
        status = ended(child, PATIENCE_S)
        kind.seen["kills" if status else "ended first"] += 1
        kind.seen[number.name] += bool(status)
        if status not in (0, *DOCUMENTED[number]):
            kind.broken.append(f"status {status} after {number.name}: {printed(folder)}")
        check(kind, folder, child)
        if status == 0:
            break
    temporary = leftovers(folder)
    kind.seen[TEMPORARY] = max(kind.seen[TEMPORARY], len(temporary))
    for path in temporary:  # as if the command came back two days later
        os.utime(path, times=(time.time() - 172_800, time.time() - 172_800), follow_symlinks=False)
    child = kind.start(folder)
    if (status := ended(child, 4 * PATIENCE_S)) != 0:
        kind.broken.append(f"status {status} when left alone: {printed(folder)}")
    check(kind, folder, child)
    if left := [str(path.relative_to(folder)) for path in leftovers(folder)]:
        kind.broken.append(f"left over: {', '.join(left)}")
    found = outcome(folder)
    if differing := sorted(name for name in kind.outcome | found if kind.outcome.get(name) != found.get(name)):
        kind.broken.append(f"differs from an undisturbed one: {', '.join(differing)}")


def check(kind: Kind, folder: Path, child: int) -> None:
    """Check what must hold after every end of a command."""
    deadline = time.monotonic() + GONE_S
    while (alive := members(child)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in alive:
        kind.broken.append(f"process {one} survived its command by {GONE_S} s")
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    if "Traceback" in printed(folder):
        kind.broken.append(f"a traceback: {printed(folder)}")
    for path in folder.rglob("*.json"):
        if not path.name.startswith(".") and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            try:
                json.loads(path.read_text(encoding="utf-8"), parse_constant=float.fromhex)  # which rejects NaN
            except ValueError as error:
                kind.broken.append(f"{path.relative_to(folder)} is not JSON: {error}")
    if len([1 for path in folder.rglob("notes.txt") if path.read_text() == "not yours\n"]) != 3:
        kind.broken.append("a file of somebody else has changed")


# Processes


def forked(folder: Path, act: Callable[[], object]) -> int:
    """Call ``act`` in ``folder`` in a process forked from this one, and return its number. It leads a session."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ |= variables(folder)
        tempfile.tempdir = None  # read TMPDIR again
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        act()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:  # anything else is what we look for
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)


def spawned(folder: Path, arguments: list[str]) -> int:
    """Start the program in ``folder`` in a new process, and return its number. It leads a session."""
    command = [sys.executable, "-m", "rosa_bench.cli.main", *arguments]
    tree = str(Path(__file__).parents[2])
    environment = {**os.environ, **variables(folder), "PYTHONPATH": tree}
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    return started.pid


def variables(folder: Path) -> dict[str, str]:
    """Return what a command finds in its environment, so that everything that it writes is in its folder."""
    return {"TMPDIR": str(folder / "tmp"), "ROSA_BENCH_CACHE": str(folder / "cache"), "HOME": str(folder)}


def ended(child: int, patience_s: float) -> int:
    """Wait for a process and return its status, as a shell does: 137 after SIGKILL. One that hangs has status -1."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def members(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, _group, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def printed(folder: Path) -> str:
    """Return the end of what a command has printed."""
    log = folder / "log"
    return " | ".join(log.read_text(errors="replace").splitlines()[-6:]) if log.exists() else ""


# What a command leaves


def outcome(folder: Path) -> dict[str, str]:
    """Return a digest of every file that a command leaves, by name. Times in records do not count."""
    return dict(_outcome(folder))


def _outcome(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] in ("results", "outputs", "cache") and "superseded" not in name.parts:
            content = path.read_bytes()
            if path.suffix == ".json" and "runs" in name.parts:
                content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
            if name.stem != "multirun":  # Hydra's own
                yield str(name), hashlib.sha256(content).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in DIFFERS}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files, locks and checkpoints: what a command that has ended well must have removed."""
    places = (folder / "results", folder / "outputs", folder / "cache")
    hidden = [path for place in places for path in place.rglob(".*") if path.name != ".locks"]
    locks = [path for path in folder.glob("results/runs/.locks/*") if path not in hidden]
    saved = [path for path in folder.glob("outputs/*/checkpoints") if path.parent.name != "another-run"]
    return [*hidden, *locks, *saved, *(folder / "tmp").glob("*rosa-bench*")]


# What commands read


def copy_records(records: Path, folder: Path) -> None:
    """Copy the records of a small sweep, which is made first if nobody has made it."""
    if not records.exists():
        making = records.with_name("making")
        making.mkdir(parents=True)
        for seed in range(2):
            if ended(forked(making, lambda seed=seed: program([*CLASSIFIER, *TINY, f"seed={seed}"])), PATIENCE_S):
                raise RuntimeError(printed(making))
        (making / "results" / "runs").rename(records)
    shutil.copytree(records, folder / "results" / "runs", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".locks"))


def make_index(index: Path) -> None:
    """Make a folder that pip takes for a package index, with one wheel of random bytes, and a model that is in it."""
    if index.exists():
        return
    index.mkdir(parents=True)
    wheel, draw = index / "toy_weights-1.0-py3-none-any.whl", random.Random(0)
    about = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        for name, size in (("config.json", 0), ("tokenizer.json", 0), ("model.safetensors", 30_000_000)):
            archive.writestr(f"toy/{name}", draw.randbytes(size) if size else "{}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (index / "toy.yaml").write_text(
        "name: toy\ntitle: Toy\nlicence: none needed\nattention: query\nhead: classifier\n"
        f"wheel: {{requirements: [toy-weights==1.0], sha256: [{digest}], folder: toy}}\n"
    )


def pull(index: Path) -> None:
    """Do what ``rosa-bench models pull toy`` would, were toy in conf/model."""
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    with errors_reported():
        pull_named({"toy": index / "toy.yaml"}, "toy")


def show(kinds: dict[str, Kind]) -> None:
    """Print one row per kind."""
    counted = ("kills", "SIGKILL", "SIGTERM", "SIGINT", "ended first", "commands")
    table = Table("", *counted, "left, most", "broken", box=box.SIMPLE)
    for name, kind in kinds.items():
        table.add_row(name, *(str(kind.seen[key]) for key in (*counted, TEMPORARY)), str(len(kind.broken)))
    totals = [str(sum(kind.seen[key] for kind in kinds.values())) for key in counted]
    table.add_row("all", *totals, "", str(sum(len(kind.broken) for kind in kinds.values())))
    get_console().print(table)


if __name__ == "__main__":
    start(main, __doc__, whole_number, whole_number, rest=one_of(*KINDS))
