"""What a task knows about the run that it is prepared for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rosa_bench.data.hub import Place
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.source import Source

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that a task may know about the run it is prepared for.

    source         where the weights of ``model`` come from
    rows           where the rows are
    held_out_rows  fraction of the train rows to select on, at most ``held_out_max`` rows; 0 selects on validation
    """

    model: Model
    source: Source
    device: torch.device
    precision: str
    seed: int
    rows: Place
    batch_size: int
    epochs: int
    max_length: int | None
    pad_to_max: bool
    group_by_length: bool
    limit_train: int | None
    limit_eval: int | None
    held_out_rows: float
    held_out_max: int
