"""Generate texts with a causal language model: batched, left-padded beam search."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rosa_bench.models.caches import cache_argument
from rosa_bench.system import processes
from rosa_bench.tasks.generation.beam_cache import beam_cache
from rosa_bench.tasks.generation.task import Decoding
from rosa_bench.training.observers.progress import progress_over


class NoRepeatInOutput(LogitsProcessor):
    """Prevents an n-gram of ``size`` tokens from being repeated within an output.

    transformers' own processor includes the prompt, so an output could not repeat the prompt's words.
    """

    def __init__(self, size: int, prompt_length: int):
        self.processor = NoRepeatNGramLogitsProcessor(size)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.processor(input_ids[:, self.prompt_length :], scores)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    *,
    end: int,
    padding: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager],
) -> list[str]:
    """Continue each of ``prompts`` (lists of tokens) up to the ``end`` token, and return the texts in the same order.

    Prompts of similar length are batched together to save padding. Apart from rounding, an output does not depend on
    the other prompts in its batch.
    """
    model.eval()
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    texts, written = [""] * len(prompts), list[tuple[int, str]]()
    starts = range(0, len(prompts), batch_size)
    for place, start in enumerate(progress_over(starts, "writing")):
        if place % processes.count() != processes.rank():  # another process writes these
            continue
        batch = by_length[start : start + batch_size]
        ids, mask = (it.to(model.device) for it in pad_left([prompts[number] for number in batch], padding))
        with autocast(), without_own_config(model):
            generated = model.generate(  # pyrefly: ignore[not-callable]
                ids,
                attention_mask=mask,
                generation_config=generation_config(decoding, end=end, padding=padding),
                **{cache_argument(model): beam_cache(model, ids, mask, decoding.beams)},
                logits_processor=logits_processors(decoding, prompt_length=ids.shape[1]),
            )
        outputs = tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)
        written += [(number, text.strip()) for number, text in zip(batch, outputs, strict=True)]
    for number, text in chain.from_iterable(processes.gathered(written)):
        texts[number] = text
    return texts


@contextmanager
def without_own_config(model: PreTrainedModel) -> Iterator[None]:
    """Ignore the settings of the model's generation_config.json inside the block.

    transformers would use them for everything that `generation_config` leaves unset, such as a repetition penalty.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def generation_config(decoding: Decoding, *, end: int, padding: int) -> GenerationConfig:
    """Return the settings for transformers' ``generate``."""
    return GenerationConfig(
        do_sample=False,
        num_beams=decoding.beams,
        length_penalty=decoding.length_penalty if decoding.beams > 1 else None,
        early_stopping=decoding.beams > 1,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=end,
        pad_token_id=padding,
        use_cache=True,
    )


def logits_processors(decoding: Decoding, *, prompt_length: int) -> LogitsProcessorList:
    """Return the constraints on an output."""
    size = decoding.no_repeat_ngram
    return LogitsProcessorList([NoRepeatInOutput(size, prompt_length)] if size else [])


def pad_left(prompts: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Return tokens and mask, (prompts, longest), with each prompt at the right end, where its output begins."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
