"""Prepare a language modelling task on a language drawn at random, whose entropy is the least possible loss."""

import hashlib

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.batches import IGNORED
from rosa_bench.data.generators.markov import MarkovSource
from rosa_bench.data.rows import SUBSET_SEED, DataInfo, held_out_size, limited, random_order
from rosa_bench.data.source import describe_source
from rosa_bench.models.loading.pretrained import Loaded
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.language_modelling.packing import Packed, pack
from rosa_bench.tasks.language_modelling.prepare import HeldOutLoss, Text, evaluation, load, prepared
from rosa_bench.tasks.language_modelling.task import ORDER, NewLanguageTask
from rosa_bench.tasks.prepared import PreparedTask


def prepare(task: NewLanguageTask, context: Context) -> PreparedTask:
    """Draw the language and its texts, and load the model. Raises `UserError` as `Task.prepare` does.

    A row of the record is one of ``max_length`` tokens; ``limit_train`` and ``limit_eval`` count these. Held-out rows
    are drawn from those of the train text with the run's seed.
    """
    loaded = load(task, context, least=ORDER + 1)
    source = MarkovSource(task.symbols, task.concentration, task.source_seed)
    drawn = {split: rows(source, task, split, context) for split in (task.train, task.validation)}
    count = limited(context.limit_train, len(drawn[task.train].labels), key="limit_train", what="train rows")
    kept = random_order(len(drawn[task.train].labels), SUBSET_SEED)[:count]
    order = [kept[place] for place in random_order(count, context.seed)]
    size = held_out_size(count, context.held_out_rows, context.held_out_max)
    parts = {
        "train": drawn[task.train].rows(sorted(order[size:])),
        "held_out": drawn[task.train].rows(sorted(order[:size])),
        "validation": validation_rows(drawn[task.validation], context),
    }
    sizes = {split: len(part.labels) for split, part in parts.items()}
    info = DataInfo(
        source=describe_source(task, None),
        synthetic=task.synthetic,
        rows=sizes,
        official_rows={split: len(part.labels) for split, part in drawn.items()},
        subset=count < len(drawn[task.train].labels) or sizes["validation"] < len(drawn[task.validation].labels),
        fingerprint=fingerprint(parts),
        official=True,
    )
    texts = {split: text(part, task, loaded) for split, part in parts.items() if sizes[split] or split != "held_out"}
    floors = {"entropy": source.entropy, "source_loss": source_loss(source, parts["validation"])}
    return prepared(task, context, loaded, texts=texts, info=info, facts=floors)


def validation_loss(task: NewLanguageTask, context: Context, loaded: Loaded) -> HeldOutLoss:
    """Return the evaluation on the validation text, as `Task.validation_loss` does."""
    source = MarkovSource(task.symbols, task.concentration, task.source_seed)
    drawn = rows(source, task, task.validation, context)
    return evaluation(text(validation_rows(drawn, context), task, loaded), context)


def rows(source: MarkovSource, task: NewLanguageTask, split: str, context: Context) -> Packed:
    """Return the text of a split as rows of symbols.

    Each label follows two symbols of its own row. So the best predictor of a row knows all that the source depends on,
    and its expected loss is the entropy rate.
    """
    assert context.max_length is not None  # checked by `load`
    length = {task.train: task.train_tokens, task.validation: task.validation_tokens}[split]
    stream = torch.from_numpy(source.text(length, split))
    return pack(stream, context.max_length, context=ORDER, keep_rest=split == task.validation)


def validation_rows(drawn: Packed, context: Context) -> Packed:
    """Return the random validation rows that ``limit_eval`` leaves."""
    total = len(drawn.labels)
    count = limited(context.limit_eval, total, key="limit_eval", what="validation rows")
    return drawn.rows(sorted(random_order(total, SUBSET_SEED)[:count]))


def text(symbols: Packed, task: NewLanguageTask, loaded: Loaded) -> Text:
    """Write symbols as tokens of the model. A symbol counts as one character."""
    tokens = vocabulary(loaded.tokenizer, task)
    labels = torch.where(symbols.labels == IGNORED, IGNORED, tokens[symbols.labels.clamp(min=0)])
    return Text(Packed(tokens[symbols.input_ids], labels), symbols.tokens)


def vocabulary(tokenizer: PreTrainedTokenizerBase, task: NewLanguageTask) -> Int64[Tensor, " symbols"]:
    """Return the token of each symbol: different random tokens, none of them special or added to the vocabulary.

    Raises `UserError` if there are too few.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
    if len(ordinary) < task.symbols:
        raise UserError(f"task.symbols={task.symbols} is more than the model's {len(ordinary)} ordinary tokens")
    order = torch.randperm(len(ordinary), generator=generator(task.source_seed, "vocabulary"))
    return torch.tensor(ordinary)[order[: task.symbols]]


def source_loss(source: MarkovSource, symbols: Packed) -> float:
    """Return the mean loss of the source's own probabilities on a text: what the best predictor would score."""
    losses = torch.from_numpy(source.losses(symbols.input_ids.numpy()))
    return losses[symbols.labels[:, ORDER:] != IGNORED].mean().item()


def fingerprint(parts: dict[str, Packed]) -> str:
    """Return the SHA-256 of the rows of symbols in order."""
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()
