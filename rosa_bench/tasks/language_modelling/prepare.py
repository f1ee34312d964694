"""Prepare a language modelling task on documents: a decoder that continues them."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedModel

from rosa_bench.data.batches import Batches
from rosa_bench.data.hub import fetch_rows
from rosa_bench.data.rows import DataInfo
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.models.loading.tokenizer import check_texts
from rosa_bench.models.spec import Decoder
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.seeds import set_seed
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.language_modelling.documents import limited_validation, load_documents, read_source
from rosa_bench.tasks.language_modelling.packing import Packed, PackedBatches, join, pack
from rosa_bench.tasks.language_modelling.task import LanguageTask, PackedTask
from rosa_bench.tasks.prepared import PreparedTask, Result
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.evaluation import mean_loss

SIGNATURE = "mean loss of every token once, in overlapping rows"


class Text(NamedTuple):
    """The packed text of a split, and how many characters its labels stand for."""

    packed: Packed
    characters: int


@dataclass(frozen=True)
class HeldOutLoss:
    """An evaluation of a text: ``loss``, in nats per token, and ``bits_per_character``.

    Every token counts once, also the EOS token that ends a document. Bits per character are the loss of all tokens
    together, in bits, divided by the number of characters in the documents.
    """

    batches: Batches
    text: Text
    context: Context

    def __call__(self, model: PreTrainedModel, replay: Replay = eager) -> Result:
        device = self.context.device
        precision = autocast(self.context.precision, device)
        loss = mean_loss(model, self.batches, device=device, autocast=precision, replay=replay)
        bits = loss * self.text.packed.tokens / math.log(2)
        return Result({"loss": loss, "bits_per_character": bits / self.text.characters})


def prepare(task: LanguageTask, context: Context) -> PreparedTask:
    """Load the documents and the model, and pack the documents. Raises `UserError` as `Task.prepare` does."""
    documents = load_documents(task, context)
    loaded = load(task, context)
    check_texts(loaded.tokenizer, [(text,) for text in documents.train], max_length=context.max_length or 0)
    texts = {
        split: pack_documents(found, loaded, context, keep_rest=split != "train")
        for split in ("train", "held_out", "validation")
        if (found := getattr(documents, split))
    }
    facts = {"validation_from": documents.validation_from}
    return prepared(task, context, loaded, texts=texts, info=documents.info, facts=facts)


def validation_loss(task: LanguageTask, context: Context, loaded: Loaded) -> HeldOutLoss:
    """Return the evaluation on the validation documents, as `Task.validation_loss` does."""
    documents = limited_validation(read_source(task, fetch_rows(task, context.rows)), context)
    return evaluation(pack_documents(documents, loaded, context, keep_rest=True), context)


def load(task: PackedTask, context: Context, *, least: int = 2) -> Loaded:
    """Load the model. Raises `UserError` for a ``max_length`` below ``least``, or too large for the model."""
    set_seed(context.seed)
    assert isinstance(context.model, Decoder)  # checked by the task
    loaded = load_decoder(context.model, context.source)
    longest = max_input_length(loaded)
    if context.max_length is None or not least <= context.max_length <= longest:
        raise UserError(
            f"max_length={context.max_length} does not suit task={task.name} and model={context.model.name}; use "
            f"{least} to {longest}"
        )
    return loaded


def pack_documents(texts: list[str], loaded: Loaded, context: Context, *, keep_rest: bool) -> Text:
    """Tokenise documents and pack them into rows of ``max_length``."""
    assert context.max_length is not None  # checked by `load`
    stream = join(texts, loaded.tokenizer)
    packed = pack(stream, context.max_length, keep_rest=keep_rest, filler=int(stream[0]))
    return Text(packed, sum(map(len, texts)))


def prepared(
    task: PackedTask, context: Context, loaded: Loaded, *, texts: dict[str, Text], info: DataInfo, facts: dict[str, Any]
) -> PreparedTask:
    """Return a packed task that is ready for training. ``texts`` has train, held_out if any, and validation."""
    train, held_out, validation = texts["train"], texts.get("held_out"), evaluation(texts["validation"], context)
    if not len(train.packed.labels):
        raise UserError(
            f"task={task.name}: the train text is shorter than one row of max_length={context.max_length} tokens; use "
            "a smaller max_length or more text"
        )
    return PreparedTask(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=PackedBatches(train.packed, batch_size=context.batch_size, seed=context.seed).to(context.device),
        select=evaluation(held_out, context) if held_out else validation,
        selected_on="held_out" if held_out else "validation",
        report=validation if held_out else None,
        signature=f"{SIGNATURE}|torch:{torch.__version__}|transformers:{transformers.__version__}",
        info=info,
        facts={
            "characters": texts["validation"].characters,
            "tokens": texts["validation"].packed.tokens,
            "train_tokens": train.packed.tokens,
            **facts,
        },
    )


def evaluation(text: Text, context: Context) -> HeldOutLoss:
    """Return the evaluation on a text. Its batches are not larger than those of training: their logits are large."""
    return HeldOutLoss(PackedBatches(text.packed, batch_size=context.batch_size).to(context.device), text, context)
