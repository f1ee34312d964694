"""What every kind of task becomes before it is trained: a model, batches, and a way to score."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosa_bench.data.batches import Batches
from rosa_bench.data.rows import DataInfo
from rosa_bench.records.generations import Generation
from rosa_bench.system.device import autocast
from rosa_bench.system.files import new_folder
from rosa_bench.tasks.base import Context
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.evaluation import Predictions, predict
from rosa_bench.training.state import Scores

EVALUATION_BATCHES = 4  # times as large as those of training: without gradients, more fits


class Result(NamedTuple):
    """What an evaluation gives: figures, and what the model wrote, where it was made to write."""

    scores: Scores
    generations: tuple[Generation, ...] = ()


class Evaluate(Protocol):
    """An evaluation of a model. One that is done again and again may be replayed."""

    def __call__(self, model: PreTrainedModel, replay: Replay = eager) -> Result:
        """The model's scores."""
        ...


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """One task and one model, ready for a method.

    model        in float32 on the CPU; given labels, it returns its loss, as Hugging Face's do
    tokenizer    what belongs to the model, where texts go in
    commit       of the model, where it came from the hub
    select       evaluates after each epoch; ``loss`` and the figure that selects are among the scores
    selected_on  by which rows: ``held_out`` of train, ``validation``, or ``validation_split`` where test is reported
    report       evaluates at the end, on rows that did not select; none where those that did are reported
    signature    fixes how the figures are computed
    info         what a record says of the data; ``facts``, what else is known of it
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    commit: str | None = None
    train: Batches
    select: Evaluate
    selected_on: str
    report: Evaluate | None
    signature: str
    info: DataInfo
    facts: dict[str, Any] = field(default_factory=dict)

    def save_model(self, folder: Path, write: Callable[[PreTrainedModel, Path], None]) -> None:
        """Write the model, by ``write``, and its tokenizer into a new folder, completely or not at all."""
        with new_folder(folder) as new:
            write(self.model, new)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)


@dataclass(frozen=True)
class OnBatches:
    """The evaluation that predicts all batches and scores that."""

    batches: Batches
    context: Context
    score: Callable[[Predictions], Scores]

    def __call__(self, model: PreTrainedModel, replay: Replay = eager) -> Result:
        device = self.context.device
        precision = autocast(self.context.precision, device)
        return Result(self.score(predict(model, self.batches, device=device, autocast=precision, replay=replay)))
