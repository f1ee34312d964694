"""The beam search cache compared with transformers' own."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.tasks.generation import generate as generating
from rosa_bench.tasks.generation.beam_cache import BeamCache, BeamLayer, beam_cache
from rosa_bench.tasks.generation.task import Decoding

Loud = Callable[[PreTrainedModel], PreTrainedModel]

TOKENIZER = byte_tokenizer(max_length=512)
PROMPTS = [[7] * 3, [9, 8, 7, 6, 5, 4, 40, 50], list(range(60, 90)), [11]]


@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("beams", [1, 5])
def test_texts_are_those_of_transformers_own_cache_prompt_by_prompt(
    tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, kind: str, beams: int, loud: Loud
) -> None:
    model = loud(tiny_model(kind))
    tokens = BeamLayer.SPARE_TOKENS + 30  # so that the buffers grow
    decoding = Decoding(beams=beams, no_repeat_ngram=3, max_new_tokens=tokens, length_penalty=1.0)

    def write(batch_size: int) -> list[str]:
        return generating.generate(
            model, TOKENIZER, PROMPTS, decoding, end=-1, padding=1, batch_size=batch_size, autocast=nullcontext
        )

    ours = write(4)
    monkeypatch.setattr(generating, "beam_cache", lambda *_: None)
    assert write(1) == ours
    assert len(set(ours)) == len(PROMPTS)


@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
def test_each_prompt_is_computed_once(tiny_model: Callable[..., PreTrainedModel], kind: str) -> None:
    """Its last token is computed for every beam, with the first logits; all other logits are never computed."""
    model, inputs, logits = tiny_model(kind), [], []
    block, head = transformer_blocks(model)[0], model.get_output_embeddings()
    block.register_forward_pre_hook(lambda _, given: inputs.append(tuple(given[0].shape[:2])))
    head.register_forward_hook(lambda _, __, made: logits.append(tuple(made.shape[:2])))  # pyrefly: ignore[missing-attribute]
    decoding = Decoding(beams=5, no_repeat_ngram=0, max_new_tokens=3, length_penalty=1.0)
    generating.generate(
        model, TOKENIZER, PROMPTS, decoding, end=-1, padding=1, batch_size=4, autocast=nullcontext
    )  # fmt: skip
    assert inputs == [(4, 29), (20, 1), (20, 1), (20, 1)]
    assert logits == [(20, 1)] * 3


def test_beams_are_reordered_after_the_prompt() -> None:
    """Two prompts of two beams each. As in beam search, the beams of a prompt share its tokens."""
    ours, theirs = BeamCache(), DynamicCache()
    prompt = torch.randn(2, 1, 3, 4).repeat_interleave(2, 0)
    ours.prompt = 3
    orders = [[0, 0, 3, 2], [1, 0, 2, 2], [0, 1, 2, 3], [1, 1, 3, 3], [1, 0, 3, 2]]
    for cache in (ours, theirs):
        cache.update(prompt, 2 * prompt, 0)
    for order in orders:
        new = torch.randn(4, 1, 1, 4)
        for cache in (ours, theirs):
            cache.update(new, -new, 0)
            cache.reorder_cache(torch.tensor(order))  # pyrefly: ignore[bad-argument-type]
    for name in ("keys", "values"):
        assert torch.equal(getattr(ours.layers[0], name), getattr(theirs.layers[0], name))
    assert ours.get_seq_length() == theirs.get_seq_length() == 3 + len(orders)


def test_windowed_layers_keep_transformers_cache(tiny_model: Callable[..., PreTrainedModel]) -> None:
    ids = torch.tensor([[5, 6, 7]])
    assert isinstance(beam_cache(tiny_model("tiny_llama"), ids, torch.ones_like(ids), 2), BeamCache)
    config = MistralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, sliding_window=16,
    )  # fmt: skip
    assert beam_cache(MistralForCausalLM(config), ids, torch.ones_like(ids), 2) is None
