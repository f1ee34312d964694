"""Prepare a memorisation task: a decoder that learns the numbers of a phone book."""

from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.data.generators import generate
from rosa_bench.data.rows import DataInfo, fingerprint, sample
from rosa_bench.data.source import describe_source
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.loading.pretrained import Loaded
from rosa_bench.models.logits.kept_logits import keep_logits_by_row
from rosa_bench.models.spec import Decoder
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.seeds import set_seed
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.memorisation.forgotten import forgotten
from rosa_bench.tasks.memorisation.recall import recall
from rosa_bench.tasks.memorisation.sequences import NumberBatches, PartsInTurn, encode
from rosa_bench.tasks.memorisation.task import MemorisationTask
from rosa_bench.tasks.prepared import EVALUATION_BATCHES, Evaluate, PreparedTask, Result, max_length
from rosa_bench.training.cuda_graphs import Replay, eager


def prepare(task: MemorisationTask, context: Context) -> PreparedTask:
    """Make the pairs, load the model, and encode the pairs for it. Raises `UserError` as `Task.prepare` does."""
    rows = pairs(task)
    set_seed(context.seed)
    assert isinstance(context.model, Decoder)  # checked by the task
    loaded = load_decoder(context.model, context.source)
    tensors = encode(
        rows,
        loaded.tokenizer,
        max_length=max_length(context, loaded),
        pad_to_max=context.pad_to_max,
        keep_logits=keep_logits_by_row(loaded.model),
    )
    train = PartsInTurn(
        tensors,
        parts=task.parts,
        epochs=context.epochs,
        batch_size=context.batch_size,
        seed=context.seed,
        passes=task.passes,
    )
    return PreparedTask(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=train.to(context.device),
        select=evaluation(task, tensors, context, batch_size=EVALUATION_BATCHES * context.batch_size, parts=task.parts),
        selected_on="train",
        report=None,
        signature=f"recall|torch:{torch.__version__}",
        info=DataInfo(
            source=describe_source(task, None),
            synthetic=task.synthetic,
            rows={"train": task.pairs, "held_out": 0, "validation": 0},
            official_rows={},
            subset=False,
            fingerprint=fingerprint([(row["name"], row["number"]) for row in rows]),
            official=True,
        ),
        facts={
            "pairs": task.pairs,
            "digits": task.digits,
            "bits": task.bits,
            **({"parts": task.parts} if task.parts > 1 else {}),
        },
        whole_run=partial(forgotten, parts=task.parts, epochs=context.epochs),
    )


def pairs(task: MemorisationTask) -> list[dict[str, str]]:
    """Return the names and numbers of the task, in the order in which parts are cut from them."""
    assert task.embedded is not None
    return generate(task.embedded, task.train, pairs=task.pairs, digits=task.digits, seed=task.seed)


def validation_loss(task: MemorisationTask, context: Context, loaded: Loaded) -> Evaluate:
    """Return the evaluation on the pairs, as `Task.validation_loss` does; ``limit_eval`` counts pairs.

    All logits are computed, so that nothing is added to a model that another task trains.
    """
    assert context.max_length is not None  # a recipe's
    kept = sample(pairs(task), context.limit_eval, key="limit_eval", what="pairs")
    tensors = encode(kept, loaded.tokenizer, max_length=context.max_length, keep_logits=False)
    return evaluation(task, tensors, context, batch_size=context.batch_size)


def evaluation(
    task: MemorisationTask, tensors: dict[str, Tensor], context: Context, *, batch_size: int, parts: int = 1
) -> Evaluate:
    """Return an evaluation on encoded pairs; with ``parts``, also of each part."""
    batches = NumberBatches(tensors, batch_size=batch_size).to(context.device)
    precision = autocast(context.precision, context.device)

    def evaluate(model: PreTrainedModel, replay: Replay = eager) -> Result:
        return Result(
            recall(
                model, batches, digits=task.digits, parts=parts,
                device=context.device, autocast=precision, replay=replay,
            )
        )  # fmt: skip

    return evaluate
