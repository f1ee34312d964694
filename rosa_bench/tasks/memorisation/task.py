"""Declaration of a memorisation task. Imports nothing heavy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rosa_bench.data.generators.phonebook import MOST_PAIRS
from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import one_of
from rosa_bench.system.setting import setting
from rosa_bench.tasks.base import Task

SCORES = ("recall", "digit_accuracy", "bits_stored")


@dataclass(frozen=True, kw_only=True)
class MemorisationTask(Task):
    """Learn random numbers by heart: write the number that belongs to a name.

    The train rows are also those that are scored, because nothing else can be known of a random number. How many bits
    are stored per trained parameter is a measure of a method's capacity.
    """

    pairs: int = setting("names in the book, each with a number", at_least=1, at_most=MOST_PAIRS)
    digits: int = setting("digits of a number", at_least=1, at_most=1000)
    seed: int = setting("seed of the names and numbers; they do not depend on the run's seed", at_least=0, below=2**32)
    passes: int = setting("passes over all pairs per epoch, after which they are scored", at_least=1, at_most=10**6)

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

    @property
    def selects_by(self) -> Metric:
        """The loss: recall is 0 for many epochs, and may reach 1 before the last of them."""
        return Metric("loss", lower_is_better=True)

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.train,)

    @property
    def bits(self) -> float:
        """Information in all numbers, in bits."""
        return self.pairs * self.digits * math.log2(10)
