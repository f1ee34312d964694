"""The beam search cache compared with transformers' own."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import Cache, DynamicCache, GPT2Config, LlamaConfig, MistralConfig, PreTrainedModel

from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.tasks.generation import generate as generating
from rosa_bench.tasks.generation.beam_cache import BeamLayer, beam_cache
from rosa_bench.tasks.generation.task import Decoding

Loud = Callable[[PreTrainedModel], PreTrainedModel]

TOKENIZER = byte_tokenizer(max_length=512)
PROMPTS = [[7] * 3, [9, 8, 7, 6, 5, 4, 40, 50], list(range(60, 90)), [11]]


@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("beams", [1, 5])
def test_updates_equal_those_of_transformers_cache(
    tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, kind: str, beams: int, loud: Loud
) -> None:
    model = loud(tiny_model(kind))
    tokens = BeamLayer.SPARE_TOKENS + 30  # so that the buffers grow
    decoding = Decoding(beams=beams, no_repeat_ngram=3, max_new_tokens=tokens, length_penalty=1.0)

    def write() -> list[str]:
        return generating.generate(
            model, TOKENIZER, PROMPTS, decoding, end=-1, padding=1, batch_size=4, autocast=nullcontext
        )

    ours = write()
    monkeypatch.setattr(generating, "beam_cache", lambda _config: None)
    assert write() == ours
    assert len(set(ours)) == len(PROMPTS)


def test_beams_are_reordered_after_the_prompt() -> None:
    """Two prompts of two beams each. As in beam search, the beams of a prompt share its tokens."""
    ours, theirs = Cache(layer_class_to_replicate=BeamLayer), DynamicCache()
    prompt = torch.randn(2, 1, 3, 4).repeat_interleave(2, 0)
    orders = [[0, 0, 3, 2], [1, 0, 2, 2], [0, 1, 2, 3], [1, 1, 3, 3]]
    for cache in (ours, theirs):
        cache.update(prompt, 2 * prompt, 0)
    for order in orders:
        new = torch.randn(4, 1, 1, 4)
        for cache in (ours, theirs):
            cache.update(new, -new, 0)
            cache.reorder_cache(torch.tensor(order))  # pyright: ignore[reportArgumentType]
    for name in ("keys", "values"):
        assert torch.equal(getattr(ours.layers[0], name), getattr(theirs.layers[0], name))
    assert ours.get_seq_length() == theirs.get_seq_length() == 3 + len(orders)


def test_windowed_layers_keep_transformers_cache() -> None:
    assert isinstance(beam_cache(GPT2Config()), Cache)
    assert isinstance(beam_cache(LlamaConfig()), Cache)
    assert beam_cache(MistralConfig(sliding_window=16)) is None
