"""Base class of task declarations, composed from ``conf/task/<name>.yaml``. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from rosa_bench.data.spec import DataSpec
from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from torch import nn

    from rosa_bench.data.hub import Place
    from rosa_bench.models.loading.pretrained import Loaded
    from rosa_bench.models.weights.source import Source
    from rosa_bench.optim.base import Optimizer
    from rosa_bench.tasks.context import Context
    from rosa_bench.tasks.prepared import Evaluate, PreparedTask


@dataclass(frozen=True, kw_only=True)
class Task(DataSpec, ABC):
    """Declaration shared by every kind of task, and its preparation for a run.

    refused          settings that do not apply to it, and why or what to do instead
    model_kind       the kind of model that it needs
    prepared_by      the module whose ``prepare`` makes it ready for a run; imported when needed, because it is heavy
    """

    title: str = setting("name in tables", identity=False)
    score: str = setting("the metric that is reported")

    refused: ClassVar[Mapping[str, str]] = {"stop_collapsed": "it has no class or value for each row"}
    model_kind: ClassVar[type[Model]]
    prepared_by: ClassVar[str]

    @property
    def phases(self) -> int:
        """Into how many equal phases a run is divided, each with its own data, warm-up and schedule. Usually one.

        If there are several, only the model at the end of the last one can be selected.
        """
        return 1

    @property
    def lower_is_better(self) -> bool:
        """The direction of the metric ``score``."""
        return False

    @property
    def selects_by(self) -> Metric:
        """The metric that selects the epoch: the reported one, unless it is too expensive to compute every epoch."""
        return Metric(self.score, self.lower_is_better)

    def found_in(self, place: Place, *, title: str) -> Self:  # noqa: ARG002 - part of the interface
        """Return a task on the user's own data with what its declaration leaves to them, named by ``title``.

        Raises `UserError` if the data at ``place`` do not suit the task.
        """
        return dataclasses.replace(self, title=title)

    def check(self, model: Model, optimizer: Optimizer, *, epochs: int | None) -> None:  # noqa: ARG002 - the interface
        """Raise `UserError` unless the task works with ``model`` and ``optimizer``, over ``epochs``.

        ``epochs`` is None if the method does not train.
        """
        if not isinstance(model, self.model_kind):
            raise UserError(f"task={self.name} is not for model={model.name}; it needs {self.model_kind.described}")

    def shapes(self, model: Model, source: Source) -> nn.Module | None:
        """Return the model that `prepare` will load on the meta device, without its weights; None if unknown here.

        Its head need not have the task's size.
        """
        return importlib.import_module("rosa_bench.models.loading.shapes").model_of_shapes(model, source)

    def prepare(self, context: Context) -> PreparedTask:
        """Load or create the model, batches and evaluations of a run, by ``prepare`` of the module `prepared_by`.

        Raises `UserError` if data or weights are missing or differ from the declaration.
        """
        return importlib.import_module(self.prepared_by).prepare(self, context)

    def check_forgetting(self, model: Model) -> None:
        """Raise `UserError` unless `validation_loss` can be computed for ``model``: both are about continuing texts."""
        if not isinstance(model, Decoder):
            raise UserError(
                f"forgetting_on={self.name} is for models that continue a text, and model={model.name} does not; use "
                f"{Decoder.described}, or forgetting_on=null"
            )
        if not issubclass(self.model_kind, Decoder):
            raise UserError(
                f"forgetting_on={self.name} has no text to continue; choose a task for decoders, such as restaurants"
            )

    def validation_loss(self, context: Context, loaded: Loaded) -> Evaluate:
        """Return an evaluation of any causal model on the validation text, by ``validation_loss`` of `prepared_by`.

        Its scores include ``loss``, in nats per token. ``loaded`` is the model of another task, with its tokenizer.
        Draws no random numbers. Raises `UserError` if data are missing or differ from the declaration.
        """
        return importlib.import_module(self.prepared_by).validation_loss(self, context, loaded)
