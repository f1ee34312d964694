"""Texts written by a causal language model: batched, padded on the left, by beam search."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

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

from rosa_bench.tasks.generation.beam_cache import beam_cache
from rosa_bench.tasks.generation.task import Decoding
from rosa_bench.training.progress import progress_over


class NoRepeatInOutput(LogitsProcessor):
    """Forbids a run of ``size`` tokens to come twice in an output.

    transformers' own counts the prompt too, so that an output could not say what the prompt says in the same words.
    """

    def __init__(self, size: int, prompt_length: int):
        self.forbid = NoRepeatNGramLogitsProcessor(size)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.forbid(input_ids[:, self.prompt_length :], scores)  # pyright: ignore[reportArgumentType]


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
    """Continue each of ``prompts``, lists of tokens, until the ``end`` sign; the texts come back in their order.

    Prompts of like length go together, which wastes the least padding. None depends on those beside it, but for
    rounding.
    """
    model.eval()
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    texts = [""] * len(prompts)
    starts = range(0, len(prompts), batch_size)
    for start in progress_over(starts, "writing"):
        chosen = by_length[start : start + batch_size]
        ids, mask = padded_left([prompts[number] for number in chosen], padding)
        with autocast(), without_habits(model):
            written = model.generate(  # pyright: ignore[reportCallIssue]
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings(decoding, end=end, padding=padding),
                **{cache_argument(model): beam_cache(model.config)},
                logits_processor=forbidden(decoding, prompt_length=ids.shape[1]),
            )
        outputs = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        for number, text in zip(chosen, outputs, strict=True):
            texts[number] = text.strip()
    return texts


def cache_argument(model: PreTrainedModel) -> str:
    """What transformers calls the cache: ``cache``, or ``past_key_values`` in its earlier versions."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@contextmanager
def without_habits(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model has no settings of its own for writing, as its generation_config.json may bring.

    transformers would take from them whatever `settings` leaves open, such as a penalty on repetition.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def settings(decoding: Decoding, *, end: int, padding: int) -> GenerationConfig:
    """What transformers' ``generate`` is told."""
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


def forbidden(decoding: Decoding, *, prompt_length: int) -> LogitsProcessorList:
    """What an output may not do."""
    size = decoding.no_repeat_ngram
    return LogitsProcessorList([NoRepeatInOutput(size, prompt_length)] if size else [])


def padded_left(prompts: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (prompts, longest), each prompt at the right end, where the output begins."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
