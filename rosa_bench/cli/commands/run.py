"""Run one experiment, or with -m a sweep: every combination of comma-separated values.

Usage: rosa-bench run [-m] KEY=VALUE ...
       rosa-bench [-m] KEY=VALUE ...      (the same)

A preset that sweeps (+experiment=NAME) needs no -m. A completed run is not run again. An interrupted one continues from
its checkpoint. Every job of a sweep is checked before the first one starts; a job that fails does not stop the others.
Hydra's own flags work too: --cfg job prints the settings of a run, --hydra-help lists the rest.

Exit status: 0 if every run is completed, 1 if not, 130 after Ctrl-C, 143 after SIGTERM.

Examples:
  rosa-bench task=cola method=rosa rank=8
  rosa-bench -m task=cola,mrpc method=lora,rosa lr=2e-3,2e-4 seed=0,1,2
  rosa-bench +experiment=quickstart
"""

import logging
import os
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rosa_bench.cli.messages import errors_reported, explain, report, report_at_once, tracebacks_wanted
from rosa_bench.cli.options import MULTIRUN, FromRecords, separate
from rosa_bench.system.console import output_never_fails
from rosa_bench.system.errors import UserError
from rosa_bench.system.processes import launched
from rosa_bench.system.signals.workers import workers_end_with_us

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rosa_bench.records.record import RunRecord

log = logging.getLogger(__name__)

STATUS_WORDS = {"new": "not run"}


def main(arguments: list[str]) -> None:
    """Make one run, or a sweep."""
    report_at_once("preparing", arguments or ["the default run"])
    from omegaconf import OmegaConf

    from rosa_bench.config.composing import compose  # noqa: F401 - makes our defaults and resolvers known to Hydra
    from rosa_bench.config.files.preset import at_given_rate, is_sweep
    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.config.overrides.mistakes import check_overrides

    for resolver in (processes, gpu_share):  # for conf/launch
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    flags, overrides = separate(arguments)
    multirun = [flag for flag in flags if flag in MULTIRUN]
    if not flags and is_sweep(overrides):
        flags = multirun = [MULTIRUN[0]]
    if multirun and launched() > 1:
        raise UserError("a sweep is not for several processes, which make one run at a time; start it by itself")
    overrides = at_given_rate(spelled(overrides, sweep=bool(multirun)))
    check_overrides(overrides)
    if multirun and len(flags) == len(multirun) and not any(it.startswith("hydra/sweeper") for it in overrides):
        sweep(overrides)
    elif not flags and not any(it.startswith("hydra") for it in overrides):
        alone(overrides)
    else:
        hand_to_hydra([*flags, *overrides])


def sweep(overrides: list[str]) -> None:
    """Check every job of a sweep, let Hydra run them, and exit with status 1 unless all are completed."""
    from rosa_bench.cli.commands.plan import refuse_invalid
    from rosa_bench.cli.launchers.packs import plan_packs, starts_here
    from rosa_bench.runs.planning.plan import plan, with_weights
    from rosa_bench.runs.status import status_of

    jobs = plan(overrides, explain)
    refuse_invalid(jobs, "; none was started")
    if starts_here(overrides):
        refuse_invalid(with_weights(jobs, explain), "; none was started")
        plan_packs(jobs)
    with jobs_known_to_compose():
        hand_to_hydra([MULTIRUN[0], *overrides])
    resolved = [job.resolved for job in jobs if job.resolved and job.kind != "duplicate"]
    ends = [status_of(one) for one in resolved]
    counts = Counter(end.kind for end in ends)
    show_outcome([end.record for end in ends if end.record is not None])
    runs = f"{counts.total()} run{'s' if counts.total() > 1 else ''}"
    if set(counts) != {"completed"}:
        listed = ", ".join(f"{count} {STATUS_WORDS.get(kind, kind)}" for kind, count in counts.items())
        report(f"of {runs}: {listed}")
    else:
        log.info("%s, all completed", runs)
    for folder in dict.fromkeys(one.config.results_dir for one in resolved):
        log.info("next: %s\n      %s", next_command("ls", folder), next_command("tables", folder))
    if set(counts) != {"completed"}:
        sys.exit(1)


@contextmanager
def jobs_known_to_compose() -> Iterator[None]:
    """Spare Hydra composing all jobs of a sweep before the first starts: `plan` has, in a hundredth of the time."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    check = BasicSweeper.validate_batch_is_legal
    BasicSweeper.validate_batch_is_legal = lambda *_: None  # pyrefly: ignore[bad-assignment]
    try:
        yield
    finally:
        BasicSweeper.validate_batch_is_legal = check


def show_outcome(records: "Sequence[RunRecord]") -> None:
    """Print a small table of what a sweep's completed runs came to."""
    from rich import get_console

    from rosa_bench.report.show.outcome import outcome_lines

    for line in outcome_lines(records, get_console().width):
        get_console().out(line, highlight=False)


def next_command(command: str, results_dir: str) -> str:
    """Return a command that reads records, with their folder unless it is the default.

    >>> next_command("ls", "results"), next_command("show RUN", "outputs/my runs")
    ('rosa-bench ls', "rosa-bench show RUN 'results_dir=outputs/my runs'")
    """
    where = [] if results_dir == FromRecords().results_dir else [shlex.quote(f"results_dir={results_dir}")]
    return " ".join(["rosa-bench", command, *where])


def alone(overrides: list[str]) -> None:
    """Let Hydra compose one run and call `experiment`, like `hand_to_hydra` in half the time.

    `hydra.main` composes everything once more, to find hydra.mode, which is not set here.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("run", create_config_search_path(hydras_folder()))
    try:
        hydra.run("config", experiment, overrides)
    finally:
        GlobalHydra.instance().clear()


def hand_to_hydra(arguments: list[str]) -> None:
    """Let Hydra compose the configurations of these arguments, and call `experiment` with each."""
    import hydra

    folder = hydras_folder()
    sys.argv[1:] = arguments  # the only place where Hydra looks for them
    with workers_end_with_us() if any(it in MULTIRUN for it in arguments) else nullcontext():
        hydra.main(version_base="1.3", config_path=folder, config_name="config")(experiment)()


def hydras_folder() -> str:
    """Return the folder that Hydra composes from. A mistake in the user's own folder is reported here, in one line."""
    from rosa_bench.config.files.folder import conf_folder, own_folder

    own_folder()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us as they are, and we explain them
    return str(conf_folder())


def experiment(raw: "DictConfig") -> None:
    """Make the run of one composed configuration. A sweep continues after a run that failed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from rosa_bench.cli.launchers.packs import made_in_pack
    from rosa_bench.cli.launchers.workers import in_worker

    if HydraConfig.get().mode == RunMode.RUN:
        with errors_reported():
            record = run_job(raw)
            log.info("next: %s", next_command(f"show {record.id}", str(raw.results_dir)))
        return
    try:
        with in_worker(str(HydraConfig.get().launcher._target_)), output_never_fails():
            if not made_in_pack(tuple(HydraConfig.get().overrides.task)):
                run_job(raw)
    except Exception as error:  # the end of the sweep says how every run went
        if tracebacks_wanted():
            traceback.print_exception(error)  # here: an error from another process arrives without it
        else:
            report(explain(error))


def run_job(raw: "DictConfig") -> "RunRecord":
    """Check the settings, make the run unless it is completed, and return its record."""
    from hydra.core.hydra_config import HydraConfig

    from rosa_bench import api
    from rosa_bench.config.composing.parse import parse
    from rosa_bench.config.identity.deviations import deviations

    config = parse(raw)
    return api.complete(config, deviations(raw, HydraConfig.get().runtime.choices))


def processes(jobs_per_gpu: int) -> int:
    """Return how many jobs run at once on this machine: ``jobs_per_gpu`` on each GPU; without one -1, one per core."""
    return _gpus(jobs_per_gpu) * jobs_per_gpu or -1


def gpu_share(jobs_per_gpu: int) -> float:
    """Return how much of a GPU a job of a sweep takes on this machine; 0 without one."""
    return min(_gpus(jobs_per_gpu), 1) / jobs_per_gpu


def _gpus(jobs_per_gpu: int) -> int:
    if not isinstance(jobs_per_gpu, int) or jobs_per_gpu < 1:
        raise UserError(f"jobs_per_gpu={jobs_per_gpu} is out of range; it must be at least 1")
    import torch

    return torch.cuda.device_count()
