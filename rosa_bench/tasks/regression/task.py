"""Declaration of a synthetic regression: recover an update of known rank. Imports nothing heavy.

Source: arXiv 2407.07802, section 4.1 and Figure 2; the sizes are those of the authors' code (``conf/task``).
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.models.spec import Model, Perceptron
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.setting import setting
from rosa_bench.tasks.base import Task

if TYPE_CHECKING:
    from torch import nn

    from rosa_bench.models.weights.source import Source
    from rosa_bench.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class SyntheticTask(Task):
    """Fit f* from x ~ N(0, I) and y = f*(x), starting at f. Each weight of f* is f's plus a rank-``true_rank`` matrix.

    A run trains several independent problems (f, f*, x), its replicates: one alone is too small to keep a processor
    busy. Each has its own score ``mse.0``, ``mse.1``, ...
    """

    inputs: int = setting("size of x", at_least=1, at_most=10**5)
    outputs: int = setting("size of y", at_least=1, at_most=10**5)
    true_rank: int = setting("rank of the matrix added to each weight", at_least=1, at_most=10**5)
    replicates: int = setting("independent problems that one run trains in parallel", at_least=1, at_most=10**4)
    train_rows: int = setting("number of x to draw for training", at_least=1, at_most=10**8)
    validation_rows: int = setting("number of x to draw for validation", at_least=1, at_most=10**8)

    refused: ClassVar[Mapping[str, str]] = {
        **Task.refused,
        "pad_to_max": "it has no texts",
        "group_by_length": "it has no texts",
        "gradient_checkpointing": "its networks are not stacks of transformer blocks",
    }
    model_kind: ClassVar[type[Model]] = Perceptron
    prepared_by: ClassVar[str] = "rosa_bench.tasks.regression.prepare"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.score", self.score, ("mse",))

    @property
    def lower_is_better(self) -> bool:
        return True

    def shapes(self, model: Model, source: "Source") -> "nn.Module":  # noqa: ARG002 - it has none but random weights
        return importlib.import_module(self.prepared_by).shapes(self, model)

    def check(self, model: Model, optimizer: "Optimizer", *, epochs: int | None) -> None:
        super().check(model, optimizer, epochs=epochs)
        if optimizer.clip_norm is not None and self.replicates > 1:
            raise UserError(
                "optimizer.clip_norm would make replicates depend on each other; use it with task.replicates=1"
            )
        for rows, columns in model.shapes(self.inputs, self.outputs):  # pyrefly: ignore[missing-attribute]
            if self.true_rank > min(rows, columns):
                raise UserError(
                    f"task.true_rank={self.true_rank} does not fit a {rows} x {columns} weight of model={model.name}; "
                    f"use at most {min(rows, columns)}, or larger task.inputs, task.outputs or model.hidden"
                )
