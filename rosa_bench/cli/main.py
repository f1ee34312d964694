"""The command line: ``rosa-bench KEY=VALUE ...`` runs and sweeps, ``rosa-bench tables`` and the like do the rest.

Heavy libraries are imported when a run is known to be a sensible one, so that help and errors come at once.
"""

import logging
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rosa_bench.config.build import typed
from rosa_bench.config.folder import conf_folder
from rosa_bench.config.parse import parse
from rosa_bench.config.schema import RunConfig
from rosa_bench.system.errors import PreemptedError, UserError, at_least

if TYPE_CHECKING:
    from rosa_bench.runs.plan import Job

log = logging.getLogger(__name__)

MULTIRUN = ("-m", "--multirun")
SHOWN = 10  # mistakes of a sweep that are told one by one
KIND_WORDS = {"new": "not run"}
GROUPS = ("task", "model", "method", "protocol")
# What a protocol leaves to the experiment; a difference in anything else is a deviation from it.
FREE = (
    *("rank", "lr", "seed", "accumulate", "precision", "device"),
    *("data_dir", "output_dir", "results_dir", "resume", "retry_failed", "checkpoint_s", "save_model", "logger"),
    *("record_spectrum", "compile", "cuda_graphs"),
)


def main() -> None:
    """Entry point of ``rosa-bench``. Exit status 0 if all went well, 1 if not, 130 after Ctrl-C, 143 after SIGTERM."""
    # Few shells expand ~ behind an equals sign, and Hydra's grammar has none.
    sys.argv[1:] = [argument.replace("=~/", f"={Path.home()}/", 1) for argument in sys.argv[1:]]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on as they are, and we tell them
    OmegaConf.register_new_resolver("processes", processes, replace=True)  # for conf/launch
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    with told():
        arguments = [argument for argument in sys.argv[1:] if argument not in MULTIRUN]
        if command is not None:
            command(sys.argv[2:])
        elif len(arguments) < len(sys.argv) - 1 and not any(it.startswith(("-", "hydra/sweeper")) for it in arguments):
            _sweep(arguments)
        else:
            _experiment()


def processes(jobs_per_gpu: int) -> int:
    """How many jobs run at once on this machine: so many on each GPU; -1, which is one a core, where there is none."""
    if not isinstance(jobs_per_gpu, int) or jobs_per_gpu < 1:
        raise UserError(f"jobs_per_gpu={jobs_per_gpu} is out of range; it must be at least 1")
    import torch

    return torch.cuda.device_count() * jobs_per_gpu or -1


@contextmanager
def told() -> Iterator[None]:
    """End the program with a message for a person where an error comes out of the block; its status says it failed."""
    try:
        yield
    except KeyboardInterrupt as error:
        tell(str(error) or "stopped")
        sys.exit(143 if isinstance(error, PreemptedError) else 130)
    except Exception as error:
        if showing_tracebacks():
            raise
        tell(explain(error))
        sys.exit(1)


def tell(message: str) -> None:
    """Write a message for the user."""
    print(f"rosa-bench: {message}", file=sys.stderr)


def showing_tracebacks() -> bool:
    """Whether errors are to be shown whole."""
    return os.environ.get("ROSA_BENCH_TRACEBACK") == "1"


def explain(error: BaseException) -> str:
    """What a person should read of an error: one line for their own mistake, kind and message for anything else."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        plugin = ' (others: pip install "rosa-bench[sweep]", [slurm] or [ray])' if group == "hydra/launcher" else ""
        return f"{group}={name} is not known; choose one of: {', '.join(error.options)}{plugin}"
    if isinstance(error, OmegaConfBaseException) and isinstance(error.__context__, UserError):
        error = error.__context__  # of one of our resolvers
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
            known = ", ".join(str(key) for key in cause.parent_node)
            return f"{cause.full_key} is not a setting; choose one of: {known}"
        lines = [*str(error).splitlines(), *(str(cause).splitlines() if cause else [])]
        internal = ("object_type=", "reference_type=", "full_key:")  # omegaconf's, of no use to a user
        return "; ".join(line.strip() for line in lines if line.strip() and not line.strip().startswith(internal))
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error} (ROSA_BENCH_TRACEBACK=1 shows where)"


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _experiment(raw: DictConfig) -> None:
    """What Hydra calls once, or once for each job of a sweep. A sweep goes on after a job that failed."""
    if HydraConfig.get().mode == RunMode.RUN:
        with told():
            run_job(raw)
        return
    try:
        run_job(raw)
    except Exception as error:  # the sweep's end tells how all stand, so that nothing is lost
        if showing_tracebacks():
            traceback.print_exception(error)  # here: out of another process it would come without
        else:
            tell(explain(error))


def run_job(raw: DictConfig) -> None:
    """Check the settings, find what the run needs, and run it, unless its record is there already."""
    config = parse(raw)
    from rosa_bench.runs.lock import locked
    from rosa_bench.runs.resolve import resolve
    from rosa_bench.runs.status import status_of

    resolved = resolve(config, deviations(raw), own_gpu=True)
    with locked(resolved.lock, resolved.id):
        kind, record = status_of(resolved)
        if kind == "completed" and config.resume == "auto":
            shutil.rmtree(resolved.checkpoints, ignore_errors=True)  # of a process killed before it could
            log.info("%s is completed already; resume=never runs it again", resolved.id)
            return
        if kind == "failed" and config.resume == "auto" and not config.retry_failed:
            reason = record.error if record else ""
            raise UserError(f"{resolved.id} failed before ({reason}); retry_failed=true runs it again")
        from rosa_bench.runs.run import run

        run(resolved)


def deviations(raw: DictConfig) -> dict[str, list[Any]]:
    """Settings in which this run differs from its protocol: key -> [value, the protocol's value].

    The protocol's values are what the same task, model, method and protocol compose to when nothing else is given.
    """
    choices = HydraConfig.get().runtime.choices
    given = [f"{group}={choices[group]}" for group in GROUPS]
    expected = hydra.compose("config", overrides=given)
    for key in FREE:
        expected[key] = raw[key]
    from rosa_bench.config.identity import is_identity

    left, right = _flat(expected), _flat(raw)
    known = {field.name for field in fields(RunConfig)}  # the rest only feeds these
    differing = [
        key for key in right if right[key] != left.get(key) and key.partition(".")[0] in known and is_identity(key)
    ]
    return {key: [right[key], left.get(key)] for key in differing}


def _flat(config: DictConfig) -> dict[str, Any]:
    """Resolved values by dotted key."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                walk(f"{name}.", value)
            else:
                flat[name] = value

    walk("", OmegaConf.to_container(config, resolve=True))
    return flat


@dataclass
class TablesOptions:
    """``rosa-bench tables``: from which results, and whether to print alone."""

    results_dir: str = "results"
    write: bool = True


def _sweep(arguments: list[str]) -> None:
    """Check every job of a sweep, let Hydra run them, and say how they stand; status 1 unless all are completed."""
    from rosa_bench.runs.plan import plan
    from rosa_bench.runs.status import status_of

    jobs = plan(arguments, explain)
    refuse_invalid(jobs, ", so none was started")
    _experiment()
    counts = Counter(status_of(job.resolved).kind for job in jobs if job.resolved and job.kind != "duplicate")
    said = ", ".join(f"{count} {KIND_WORDS.get(kind, kind)}" for kind, count in counts.items())
    if set(counts) != {"completed"}:
        tell(f"of {counts.total()} runs: {said}")
        sys.exit(1)
    log.info("%d runs, all completed", counts.total())


def refuse_invalid(jobs: "Sequence[Job]", so: str = "") -> None:
    """Tell which jobs of a sweep cannot be run, and why, and raise `UserError` if there are any."""
    if wrong := [job for job in jobs if job.kind == "invalid"]:
        for job in wrong[:SHOWN]:
            tell(f"{' '.join(job.overrides)}: {job.reason}")
        raise UserError(f"{len(wrong)} of {len(jobs)} jobs cannot be run{so}")


def _plan(arguments: list[str]) -> None:
    """Say what a sweep would run, and run nothing."""
    from rich import get_console

    from rosa_bench.runs.plan import plan, show

    jobs = plan([argument for argument in arguments if argument not in MULTIRUN], explain)
    show(jobs, get_console())
    refuse_invalid(jobs)


def _tables(arguments: list[str]) -> None:
    """Make tables from records, write them to ``results_dir``/tables and print them."""
    from rosa_bench.report.make_tables import make_tables

    options = _options(TablesOptions, arguments)
    make_tables(Path(options.results_dir).expanduser(), write=options.write)


@dataclass
class FiguresOptions:
    """``rosa-bench figures``: from which results."""

    results_dir: str = "results"


def _figures(arguments: list[str]) -> None:
    """Draw figures from records into ``results_dir``/figures."""
    from rosa_bench.report.make_figures import make_figures

    make_figures(Path(_options(FiguresOptions, arguments).results_dir).expanduser())


@dataclass
class ReportOptions:
    """``rosa-bench report``: from which results."""

    results_dir: str = "results"


def _report(arguments: list[str]) -> None:
    """Write tables, figures and all runs as one page, ``results_dir``/report.html."""
    from rosa_bench.report.make_page import make_report

    make_report(Path(_options(ReportOptions, arguments).results_dir).expanduser())


def _models(arguments: list[str]) -> None:
    """List the models, or pull one."""
    from rosa_bench.cli import models as catalog

    match arguments:
        case []:
            catalog.show(conf_folder() / "model")
        case ["pull", name]:
            catalog.pull_named(conf_folder() / "model", name)
        case _:
            raise UserError("usage: rosa-bench models, or rosa-bench models pull NAME")


def _score(arguments: list[str]) -> None:
    """Score saved generations."""
    from rich import get_console

    from rosa_bench.cli.score import show_scores

    if not arguments:
        raise UserError(
            "usage: rosa-bench score FILE [FILE ...], files of generations as results/runs/*.generations.jsonl"
        )
    show_scores([Path(argument).expanduser() for argument in arguments], get_console())


@dataclass
class NextOptions:
    """``rosa-bench next``: from which results, and up to how many seeds."""

    results_dir: str = "results"
    seeds: int = 5


def _next(arguments: list[str]) -> None:
    """Say which runs the tables still want, a command a line, and run nothing."""
    from rich import get_console

    from rosa_bench.config.compose import composing
    from rosa_bench.records.store import load_records
    from rosa_bench.report.comparison import tells_runs_apart, value_of, values_of
    from rosa_bench.report.make_tables import tabled
    from rosa_bench.report.next import next_commands

    bare = [argument for argument in arguments if "=" not in argument]  # mistakes, told beside the keys there are
    own, others = _split(arguments, lambda key: key in {*vars(NextOptions()), *bare})
    options = _options(NextOptions, own)
    at_least("seeds", options.seeds, 1)
    about, added = _split(others, tells_runs_apart)
    among = values_of(about)
    if itself := among.keys() & {"lr", "seed"}:
        raise UserError(f"next says itself which lr and seed are wanted; leave out: {', '.join(sorted(itself))}")
    with composing() as composer:
        composer.expand(added)  # a mistake in them is told here, not by every command
    found = load_records(Path(options.results_dir).expanduser())
    kept = [run for run in tabled(found) if all(value_of(run, key) in values for key, values in among.items())]
    if not kept:
        of = f" of {' '.join(about)}" if about else ""
        raise UserError(f"results_dir={options.results_dir} holds no runs{of} to go on from; run something first")
    added += [argument for argument in own if argument.startswith("results_dir=")]
    for command in next_commands(kept, seeds=options.seeds, more=added):
        get_console().out(command, highlight=False)  # unlike print it takes it quietly if head has read enough
    found.remind()


@dataclass
class CompareOptions:
    """``rosa-bench compare``: from which results."""

    results_dir: str = "results"


def _compare(arguments: list[str]) -> None:
    """Say what one setting is worth, all else equal."""
    from rich import get_console
    from rich.text import Text

    from rosa_bench.records.store import load_records
    from rosa_bench.report.compare import HOW, compare
    from rosa_bench.report.comparison import comparison
    from rosa_bench.report.make_tables import tabled
    from rosa_bench.report.writers.terminal import show_sections

    own, others = _split(arguments, lambda key: key in vars(CompareOptions()))
    options, asked = _options(CompareOptions, own), comparison(others)
    found = load_records(Path(options.results_dir).expanduser())
    runs = tabled(found)
    if not any(run.status == "completed" for run in runs):
        raise UserError(f"results_dir={options.results_dir} holds no completed run; run something first")
    sections = compare(asked, runs)
    console = get_console()
    console.print(Text(HOW, style="dim"))
    show_sections(sections, console)
    found.remind()


def _split(arguments: list[str], is_ours: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """``KEY=VALUE`` arguments whose keys are ours, and the others."""
    ours = [argument for argument in arguments if is_ours(argument.partition("=")[0])]
    return ours, [argument for argument in arguments if argument not in ours]


def _options(kind: type, arguments: list[str]) -> Any:
    """Typed ``KEY=VALUE`` arguments."""
    if odd := [argument for argument in arguments if "=" not in argument]:
        raise UserError(f"{odd[0]} is not KEY=VALUE; the keys are: {', '.join(vars(kind()))}")
    return typed(kind, OmegaConf.from_dotlist(arguments))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "tables": _tables,
    "figures": _figures,
    "report": _report,
    "models": _models,
    "score": _score,
    "plan": _plan,
    "next": _next,
    "compare": _compare,
}


if __name__ == "__main__":
    main()
