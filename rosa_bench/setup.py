"""What is decided about a run before any data or model is loaded, and before transformers is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rosa_bench.config import RunConfig
from rosa_bench.data.source import describe_source
from rosa_bench.device import resolve_device, resolve_precision
from rosa_bench.files import check_writable
from rosa_bench.hub import offline_if_unreachable
from rosa_bench.models.source import Source, locate
from rosa_bench.record import identity, run_id


@dataclass(frozen=True)
class Setup:
    """A run that is known to be possible on this machine, as far as can be told without starting it."""

    config: RunConfig
    deviations: dict[str, list[Any]]
    source: Source
    device: torch.device
    precision: str
    id: str

    @property
    def data_dir(self) -> Path | None:
        """The user's own data folder."""
        return None if self.config.data_dir is None else Path(self.config.data_dir).expanduser()

    @property
    def results_dir(self) -> Path:
        """Where the record goes."""
        return Path(self.config.results_dir).expanduser()

    @property
    def output_dir(self) -> Path:
        """Where what this run makes beside its record goes."""
        return Path(self.config.output_dir).expanduser() / self.id

    @property
    def saved_model(self) -> Path:
        """Where the model goes, if it is saved."""
        return self.output_dir / "model"


def set_up(config: RunConfig, deviations: dict[str, list[Any]]) -> Setup:
    """Find the data, the weights and the device, and name the run. Raises `UserError` for what is not there."""
    check_writable("output_dir", Path(config.output_dir).expanduser())
    check_writable("results_dir", Path(config.results_dir).expanduser())
    data = describe_source(config.task, None if config.data_dir is None else Path(config.data_dir).expanduser())
    source = locate(config.model)
    if "hub" in (source.kind, data.partition(" ")[0]):
        offline_if_unreachable()
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    known = identity(config, data=data, model=source.identity, device=device.type, precision=precision)
    return Setup(config, deviations, source, device, precision, run_id(config, known))
