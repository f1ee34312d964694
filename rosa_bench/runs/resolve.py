"""Everything decided about a run before data or a model is loaded, and before transformers is imported.

Nor is torch, unless the run may be on a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rosa_bench.config.composing.named_task import named_task
from rosa_bench.config.identity.run_id import identity, run_id
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.source import describe_source
from rosa_bench.data.spec import HubData
from rosa_bench.models.weights.source import Source, locate
from rosa_bench.records.store import record_path, runs_folder, superseded_folder
from rosa_bench.system import processes
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.writable import check_writable
from rosa_bench.system.hub.network import check_environment
from rosa_bench.system.resources.device import resolve_device, resolve_precision
from rosa_bench.tasks.base import Task
from rosa_bench.tasks.context import Context

if TYPE_CHECKING:
    import torch

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class ResolvedRun:
    """A run that has passed every check that can be made on this machine without starting it."""

    config: RunConfig
    deviations: dict[str, list[Any]]
    source: Source
    device_name: str  # as torch writes it: cpu, cuda:0
    precision: str
    identity: dict[str, Any]
    id: str

    @property
    def device(self) -> torch.device:
        """The device as torch has it."""
        import torch

        return torch.device(self.device_name)

    @property
    def device_type(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device_name.partition(":")[0]

    @property
    def data_dir(self) -> Path | None:
        """Folder with the user's own data, if any."""
        return None if self.config.data_dir is None else Path(self.config.data_dir).expanduser()

    @property
    def rows(self) -> Path | None:
        """The user's own file or folder of the task's rows; None if they are on the hub or generated."""
        return place_of(self.config)

    @property
    def context(self) -> Context:
        """What the task needs to know about this run."""
        config = self.config
        return Context(
            model=config.model,
            source=self.source,
            device=self.device,
            precision=self.precision,
            seed=config.seed,
            rows=self.rows,
            batch_size=config.batch_size,
            epochs=config.epochs,
            max_length=config.max_length,
            pad_to_max=config.pad_to_max,
            group_by_length=config.group_by_length,
            limit_train=config.limit_train,
            limit_eval=config.limit_eval,
            held_out_rows=config.protocol.held_out_rows,
            held_out_max=config.protocol.held_out_max,
        )

    @property
    def results_dir(self) -> Path:
        """Folder for records, tables and figures."""
        return Path(self.config.results_dir).expanduser()

    @property
    def record_path(self) -> Path:
        """Path of the run's record, whether or not it exists yet."""
        return record_path(self.results_dir, self.id, task=self.config.task.name, model=self.config.model.name)

    @property
    def output_dir(self) -> Path:
        """Folder for everything that this run writes except its record."""
        return Path(self.config.output_dir).expanduser() / self.id

    @property
    def lock(self) -> Path:
        """Lock file of this run. It is next to the records, because all processes share them."""
        return runs_folder(self.results_dir) / ".locks" / self.id

    @property
    def checkpoints(self) -> Path:
        """Folder for checkpoints while the run trains."""
        return self.output_dir / "checkpoints"

    @property
    def tracking(self) -> Path:
        """File that lists what the logger has received. It is removed when the run is completed."""
        return self.output_dir / "tracking.json"

    @property
    def saved_model(self) -> Path:
        """Folder for the model, if it is saved."""
        return self.output_dir / "model"

    @property
    def saved_adapter(self) -> Path:
        """Folder for the LoRA adapter, if it is saved."""
        return self.output_dir / "adapter"


class Inputs(NamedTuple):
    """Where rows and weights come from. ``data`` describes the rows in words that are valid on any machine.

    task  with what was found in the user's own data
    """

    data: str
    source: Source
    task: Task


def place_of(config: RunConfig) -> Path | None:
    """Return the user's own file or folder of the task's rows; None if they are on the hub or generated."""
    if config.data is not None and config.task.hub is not None:
        return None
    place = config.data or config.data_dir
    return None if place is None else Path(place).expanduser()


def own_task(config: RunConfig) -> Task:
    """Return the task of a run with what is found in the user's own data, if it is on such data.

    Raises `UserError` if they do not suit it.
    """
    task, place, data = config.task, place_of(config), config.data
    if not task.is_own or place is None:
        return task
    if data is not None and HUB_ID.fullmatch(data) and not place.exists():
        return replace(task, hub=HubData(path=data)).found_in(None, title=data)
    return task.found_in(place, title=place.resolve().name)


def find_inputs(config: RunConfig) -> Inputs:
    """Find the data and the weights. Raises `UserError` if either is missing."""
    check_environment()
    data_dir = None if config.data_dir is None else Path(config.data_dir).expanduser()
    task = own_task(config)
    config = config if task is config.task else replace(config, task=task)
    data = describe_source(config.task, place_of(config))
    if config.forgetting_on is not None:
        other = named_task(config.forgetting_on, key="forgetting_on", protocol=config.protocol.name).task
        other.check_forgetting(config.model)
        describe_source(other, data_dir)  # not part of the identity; fails if there are no rows
    return Inputs(data, locate(config.model), config.task)


def resolve(
    config: RunConfig,
    deviations: dict[str, list[Any]],
    *,
    inputs: Inputs | None = None,
    own_gpu: bool = False,
    writable: set[Path] | None = None,
) -> ResolvedRun:
    """Find the data, the weights and the device, and name the run. Raises `UserError` if anything is missing.

    Pass ``inputs`` if `find_inputs` has already found the data and the weights. With ``own_gpu`` this process reserves
    a GPU, because it is about to run something. ``writable`` keeps folders that need no second check.
    """
    if config.compile != "none":
        from rosa_bench.training.compile import check_compiler

        check_compiler(config.compile)
    check_quantiser(config)
    check_processes(config)
    data, source, task = inputs or find_inputs(config)
    config = config if task is config.task else replace(config, task=task)
    device = "cpu" if config.device == "cpu" else str(resolve_device(config.device, own_gpu=own_gpu))
    kind = device.partition(":")[0]
    if config.offload and kind == "cpu":
        raise UserError(f"offload={config.offload} moves weights out of a GPU's memory; use offload=null on device=cpu")
    precision = resolve_precision(config.precision, device)
    known = identity(config, data=data, model=source.identity, device=kind, precision=precision)
    found = ResolvedRun(config, deviations, source, device, precision, known, run_id(config, known))
    check_places(found, writable)
    return found


def check_quantiser(config: RunConfig) -> None:
    """Raise `UserError` if weights are to be quantised and bitsandbytes is not installed."""
    if config.quantises and find_spec("bitsandbytes") is None:
        raise UserError(
            f"base_dtype={config.base_dtype} needs the package bitsandbytes; install it: "
            "pip install 'rosa-bench[quantised]'"
        )


def check_processes(config: RunConfig) -> None:
    """Raise `UserError` unless the run can be shared by the processes that were launched together."""
    count = processes.launched()
    if count > 1 and config.parallel == "none":
        raise UserError(
            f"parallel=none is for one process, and {count} were started together; use parallel=data or "
            "parallel=sharded, or start the program by itself"
        )
    if config.batch_size < count:
        raise UserError(f"batch_size={config.batch_size} has no row for each of {count} processes; use a larger one")


def check_places(resolved: ResolvedRun, known: set[Path] | None = None) -> None:
    """Raise `UserError` if something that the run will write cannot be written. Folders in ``known`` can."""
    output, results = Path(resolved.config.output_dir).expanduser(), resolved.results_dir
    check_writable("output_dir", output, resolved.checkpoints, known=known)
    places = (resolved.record_path.parent, resolved.lock.parent, superseded_folder(results))
    check_writable("results_dir", results, *places, known=known)
