"""Declaration of a synthetic regression: recover an update of known rank. Imports nothing heavy.

Source: arXiv 2407.07802, section 4.1 and Figure 2; the sizes are those of the authors' code (``conf/task``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.models.spec import Model, Perceptron
from rosa_bench.system.errors import UserError, at_least, one_of
from rosa_bench.tasks.base import Task

if TYPE_CHECKING:
    from rosa_bench.optim.base import Optimizer
    from rosa_bench.tasks.base import Context
    from rosa_bench.tasks.prepared import PreparedTask


@dataclass(frozen=True, kw_only=True)
class SyntheticTask(Task):
    """Fit f* from x ~ N(0, I) and y = f*(x), starting at f. Each weight of f* is f's plus a rank-``true_rank`` matrix.

    inputs, outputs  sizes of x and y
    true_rank        rank of the matrix added to each weight
    replicates       independent problems (f, f*, x) that one run trains in parallel, because one alone is too small to
                     keep a processor busy; each has its own score ``mse.0``, ``mse.1``, ...
    train_rows, validation_rows  number of x to draw
    """

    inputs: int
    outputs: int
    true_rank: int
    replicates: int
    train_rows: int
    validation_rows: int

    lower_is_better: ClassVar[bool] = True
    model_kind: ClassVar[type[Model]] = Perceptron

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.score", self.score, ("mse",))
        for key in ("inputs", "outputs", "true_rank", "replicates", "train_rows", "validation_rows"):
            at_least(f"task.{key}", getattr(self, key), 1)

    def check(self, model: Model, optimizer: "Optimizer") -> None:
        super().check(model, optimizer)
        if optimizer.clip_norm is not None and self.replicates > 1:
            raise UserError(
                "optimizer.clip_norm would make replicates depend on each other; use it with task.replicates=1"
            )
        for rows, columns in model.shapes(self.inputs, self.outputs):  # pyright: ignore[reportAttributeAccessIssue]
            if self.true_rank > min(rows, columns):
                raise UserError(
                    f"task.true_rank={self.true_rank} does not fit a {rows} x {columns} weight of model={model.name}; "
                    f"use at most {min(rows, columns)}, or larger task.inputs, task.outputs or model.hidden"
                )

    def prepare(self, context: "Context") -> "PreparedTask":
        from rosa_bench.tasks.regression.prepare import prepare

        return prepare(self, context)
