"""What every kind of task becomes before it is trained: a model, batches, and a way to score."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosa_bench.data.batches import Batches
from rosa_bench.data.rows import DataInfo
from rosa_bench.data.task import Task
from rosa_bench.evaluate import Predictions
from rosa_bench.files import new_folder
from rosa_bench.setup import Setup
from rosa_bench.train import Scores

EVALUATION_BATCHES = 4  # times as large as those of training: without gradients, more fits


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One task and one model, ready for a method.

    model       in float32 on the CPU; given labels, it returns its loss, as Hugging Face's do
    tokenizer   what belongs to the model, where texts go in
    commit      of the model, where it came from the hub
    held_out    batches out of train to select on; none where the protocol selects on dev itself
    validation  batches of dev
    score       figures of predictions: the task's own, and ``loss``; ``signature`` fixes how they are computed
    info        what a record says of the data; ``facts``, what else is known of it
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    commit: str | None = None
    train: Batches
    held_out: Batches | None
    validation: Batches
    score: Callable[[Predictions], Scores]
    signature: str
    info: DataInfo
    facts: dict[str, Any] = field(default_factory=dict)

    def save_model(self, folder: Path) -> None:
        """Write the model and its tokenizer in Hugging Face form, whole or not at all."""
        with new_folder(folder) as new:
            self.model.save_pretrained(new)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)


@singledispatch
def prepare(task: Task, setup: Setup) -> Problem:
    """Load or make all that a run of ``task`` works on. Each kind of task registers its own way.

    Raises `UserError` for data or weights that are not there, or not as declared.
    """
    raise NotImplementedError(f"nothing prepares a {type(task).__name__}")
