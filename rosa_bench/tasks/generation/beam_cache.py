"""Key-value cache for beam search: prompts are computed once, and beams are reordered with few copies.

transformers computes each prompt once for every beam, and copies its own cache completely twice per token: to append
to it and to reorder the beams. With many beams that takes longer than the rest of the model.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rosa_bench.models.caches import attends_to_all, cache_argument


class BeamLayer(DynamicLayer):
    """Keys and values of one layer, (prompts x beams, heads, tokens, size), in buffers with spare capacity."""

    SPARE_TOKENS = 64  # capacity added when a buffer grows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.buffers = [key_states[..., :0, :], value_states[..., :0, :]]

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        for number, states in enumerate((key_states, value_states)):
            if after > self.buffers[number].shape[-2]:
                spare = states.new_empty(*states.shape[:-2], after - before + self.SPARE_TOKENS, states.shape[-1])
                self.buffers[number] = torch.cat([self.buffers[number][..., :before, :], spare], -2)
            self.buffers[number][..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self.buffers)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give each row ``repeats`` copies."""
        super().batch_repeat_interleave(repeats)
        assert self.keys is not None and self.values is not None
        self.buffers = [self.keys, self.values]


class BeamCache(Cache):
    """The cache of all layers.

    Most beams of a prompt share most of what they have written. So a token's keys and values are copied only where
    they differ, which the row that wrote them tells.

    prompt   number of tokens that all beams of a prompt share
    writers  the row that wrote each token after the prompt, (rows, tokens)
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=BeamLayer)
        self.prompt = 0
        self.writers = torch.empty(0, 0, dtype=torch.int64)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace beam ``i`` by beam ``beam_idx[i]``; both belong to the same prompt."""
        rows, tokens = len(beam_idx), self.get_seq_length() - self.prompt
        beam_idx = beam_idx.to(self.generated()[0].device)
        if beam_idx.device.type != "cpu":  # there, finding what differs takes longer than copying everything
            for states in self.generated():
                states.copy_(states[beam_idx])
            return
        new = torch.arange(rows)[:, None].expand(-1, tokens - self.writers.shape[1] if len(self.writers) else tokens)
        before = torch.cat([self.writers, new], 1) if len(self.writers) else new
        self.writers = before[beam_idx]
        target, place = (self.writers != before).nonzero(as_tuple=True)
        source = beam_idx[target]
        for states in self.generated():
            states[target, :, place] = states[source, :, place]

    def generated(self) -> list[Tensor]:
        """Return every layer's keys and values after the prompt, (rows, heads, tokens, size), as views."""
        pairs = ((layer.keys, layer.values) for layer in self.layers if isinstance(layer, BeamLayer))
        return [states[..., self.prompt :, :] for pair in pairs for states in pair if states is not None]


def beam_cache(model: PreTrainedModel, prompts: Tensor, mask: Tensor, beams: int) -> Cache | None:
    """Return a cache that holds all but the last token of each prompt, (prompts, tokens), for every beam.

    The cache is empty if the model adds tokens of its own to the prompt. It is None for a model with layers that do not
    attend to all previous tokens.
    """
    if not attends_to_all(model.config):
        return None
    body: Any = model.base_model
    before, visible = prompts[:, :-1], mask[:, :-1]
    cache = BeamCache()
    if before.shape[1]:
        positions = (visible.cumsum(-1) - 1).clamp(min=0)
        options = {cache_argument(model): cache, "use_cache": True}
        body(input_ids=before, attention_mask=visible, position_ids=positions, **options)
        if cache.get_seq_length() != before.shape[1]:
            return BeamCache()
        cache.batch_repeat_interleave(beams)
        cache.prompt = before.shape[1]
    return cache
