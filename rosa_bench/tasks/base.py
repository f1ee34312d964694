"""What a task is: a declaration, composed from ``conf/task/<name>.yaml``. Imports nothing heavy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.data.spec import DataSpec
from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Model
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from rosa_bench.models.weights.source import Source
    from rosa_bench.optim.base import Optimizer
    from rosa_bench.tasks.prepared import PreparedTask


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a task needs to know of the run that it is prepared for, and nothing else.

    source         where the weights of ``model`` come from
    held_out_rows  fraction of the train rows to select on, at most ``held_out_max``; 0 selects on validation
    """

    model: Model
    source: Source
    device: torch.device
    precision: str
    seed: int
    data_dir: Path | None
    batch_size: int
    max_length: int | None
    pad_to_max: bool
    group_by_length: bool
    limit_train: int | None
    limit_eval: int | None
    held_out_rows: float
    held_out_max: int


@dataclass(frozen=True, kw_only=True)
class Task(DataSpec, ABC):
    """What every kind of task declares, and how it is prepared.

    title     as in a table
    score     the metric that is reported, ``lower_is_better`` or not
    has_text  whether its examples are texts, which are cut and padded
    """

    title: str = setting("as in a table", identity=False)
    score: str

    lower_is_better: ClassVar[bool] = False
    has_text: ClassVar[bool] = False
    model_kind: ClassVar[type[Model]]

    @property
    def selects_by(self) -> Metric:
        """The metric that selects the epoch: the reported one, unless computing it after every epoch costs too much."""
        return Metric(self.score, self.lower_is_better)

    def check(self, model: Model, optimizer: Optimizer) -> None:  # noqa: ARG002 - part of the contract
        """Raise `UserError` unless the task can be run with ``model`` and ``optimizer``."""
        if not isinstance(model, self.model_kind):
            raise UserError(f"task={self.name} is not for model={model.name}; it needs {self.model_kind.described}")

    @abstractmethod
    def prepare(self, context: Context) -> PreparedTask:
        """Load or make the model, the batches and the evaluations of a run. Heavy imports belong inside.

        Raises `UserError` for data or weights that are missing, or not as declared.
        """
