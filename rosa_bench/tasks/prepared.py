"""A task that is ready for training: a model, batches, and evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rosa_bench.data.batches import Batches
from rosa_bench.data.rows import DataInfo
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.records.generations import Generation
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.folders import new_folder
from rosa_bench.system.resources.device import autocast
from rosa_bench.tasks.context import Context
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.evaluation import Predictions, predict
from rosa_bench.training.state import Scores

EVALUATION_BATCHES = 4  # evaluation batches are this many times larger, as they need no gradients


class Result(NamedTuple):
    """The result of an evaluation: scores, and the generated texts or the predictions, in the order of the rows."""

    scores: Scores
    generations: tuple[Generation, ...] = ()
    predictions: Predictions | None = None


class Evaluate(Protocol):
    """An evaluation of a model. ``replay`` may run its forward passes as captured CUDA graphs."""

    def __call__(self, model: PreTrainedModel, replay: Replay = eager) -> Result:
        """Score the model."""
        ...


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task and a model, ready for a method to be attached.

    model        in float32 on the CPU; like Hugging Face models, returns its loss if given labels
    tokenizer    the model's tokenizer, if its inputs are texts
    commit       the model's commit, if it came from the hub
    train        the training batches
    select       evaluation after each epoch; its scores include ``loss`` and the metric that selects the epoch
    selected_on  rows used for selection: ``held_out`` (of train), ``validation``, or ``validation_split`` if test is
                 reported
    report       evaluation at the end, on rows not used for selection; None to report the scores of ``select``
    signature    identifies how the scores are computed
    info         description of the data for the record
    facts        further entries for the record's description of the data
    reported     fingerprint of the reported rows, the same for all seeds, if predictions of them are to be stored
    drawn_head   whether the task's head has random weights, because the model was not fine-tuned for the task
    whole_run    returns further scores of a run, given those of all its epochs
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
    reported: str | None = None
    drawn_head: bool = False
    whole_run: Callable[[Sequence[Scores]], Scores] = lambda _: {}

    def save_model(self, folder: Path, write: Callable[[PreTrainedModel, Path], None]) -> None:
        """Write the model, by ``write``, and its tokenizer into a new folder, atomically."""
        with new_folder(folder) as new:
            write(self.model, new)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)


def max_length(context: Context, loaded: Loaded) -> int:
    """Return the longest input of a run, in tokens. Raises `UserError` if it is unset or too long for the model."""
    longest = max_input_length(loaded)
    if context.max_length is None or context.max_length > longest:
        raise UserError(
            f"max_length={context.max_length} does not suit model={context.model.name}; use at most {longest}"
        )
    return context.max_length


@dataclass(frozen=True)
class OnBatches:
    """An evaluation that predicts all batches and scores the predictions."""

    batches: Batches
    context: Context
    score: Callable[[Predictions], Scores]

    def __call__(self, model: PreTrainedModel, replay: Replay = eager) -> Result:
        device = self.context.device
        precision = autocast(self.context.precision, device)
        predictions = predict(model, self.batches, device=device, autocast=precision, replay=replay)
        outputs, labels, loss = predictions
        ordered = Predictions(self.batches.in_row_order(outputs), self.batches.in_row_order(labels), loss)
        return Result(self.score(predictions), predictions=ordered)
