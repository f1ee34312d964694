"""Declaration of a memorisation task. Imports nothing heavy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.data.generators.phonebook import MOST_PAIRS
from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.setting import setting
from rosa_bench.tasks.base import Task

if TYPE_CHECKING:
    from rosa_bench.optim.base import Optimizer

SCORES = ("recall", "digit_accuracy", "bits_stored")


@dataclass(frozen=True, kw_only=True)
class MemorisationTask(Task):
    """Learn random numbers by heart: write the number that belongs to a name.

    The train rows are also those that are scored, because nothing else can be known of a random number. How many bits
    are stored per trained parameter is a measure of a method's capacity.

    With several ``parts`` the names are learned in turns, and what is forgotten of earlier parts is scored.
    """

    pairs: int = setting("names in the book, each with a number", at_least=1, at_most=MOST_PAIRS)
    digits: int = setting("digits of a number", at_least=1, at_most=1000)
    seed: int = setting("seed of the names and numbers; they do not depend on the run's seed", at_least=0, below=2**32)
    passes: int = setting(
        "passes over the pairs, or over the current part of them, per epoch, after which all are scored",
        at_least=1, at_most=10**6,
    )  # fmt: skip
    parts: int = setting(
        "cut the pairs into this many parts of one size, and learn one after another, each for its share of the epochs",
        default=1, before=1, at_least=1, at_most=100,
    )  # fmt: skip

    refused: ClassVar[Mapping[str, str]] = {
        **Task.refused,
        "limit_train": "set task.pairs",
        "limit_eval": "all pairs are scored; set task.pairs",
        "group_by_length": "all its rows have one length",
    }
    model_kind: ClassVar[type[Model]] = Decoder
    prepared_by: ClassVar[str] = "rosa_bench.tasks.memorisation.prepare"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.score", self.score, SCORES)
        if self.pairs % self.parts:
            raise UserError(
                f"task.pairs={self.pairs} cannot be cut into task.parts={self.parts} of one size; use a multiple of "
                f"{self.parts} pairs"
            )

    def check(self, model: Model, optimizer: "Optimizer", *, epochs: int | None) -> None:
        super().check(model, optimizer, epochs=epochs)
        if self.parts > 1 and epochs is None:
            raise UserError(f"task.parts={self.parts} is for methods that train; use task.parts=1")
        if (epochs or 0) % self.parts:
            raise UserError(
                f"epochs={epochs} cannot be shared equally by task.parts={self.parts}; use a multiple of {self.parts}"
            )

    @property
    def phases(self) -> int:
        return self.parts

    @property
    def selects_by(self) -> Metric:
        """The loss: recall is 0 for many epochs, and may reach 1 before the last of them.

        Of several parts the reported score: the loss of forgotten numbers is so high that it would choose the learning
        rate at which the least is learned.
        """
        return Metric("loss", lower_is_better=True) if self.parts == 1 else super().selects_by

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.train,)

    @property
    def bits(self) -> float:
        """Information in all numbers, in bits."""
        return self.pairs * self.digits * math.log2(10)
