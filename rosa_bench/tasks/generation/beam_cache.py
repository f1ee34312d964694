"""Key-value cache for beam search that is written in place and reordered with few copies.

transformers' own cache is copied completely twice per token, to append to it and to reorder the beams. With many beams
that takes longer than the model itself.
"""

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from rosa_bench.models.caches import attends_to_all


class BeamLayer(DynamicLayer):
    """Keys and values of one layer, (prompts x beams, heads, tokens, size), in buffers with spare capacity.

    All beams of a prompt share the prompt's tokens, so only the tokens after the prompt are reordered.
    """

    SPARE_TOKENS = 64  # capacity added when a buffer grows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.prompt = key_states.shape[-2]  # tokens
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace beam ``i`` by beam ``beam_idx[i]``; both belong to the same prompt."""
        beam_idx = beam_idx.to(self.device)
        targets = torch.arange(len(beam_idx), device=self.device)
        if self.device.type == "cpu":  # on a GPU, finding the beams that move takes longer than copying them all
            targets = targets[beam_idx != targets]
        for states in (self.keys, self.values):
            assert states is not None
            generated = states[..., self.prompt :, :]
            generated[targets] = generated[beam_idx[targets]]


def beam_cache(config: PretrainedConfig) -> Cache | None:
    """Return an empty cache, or None for a model with layers that do not attend to all previous tokens."""
    return Cache(layer_class_to_replicate=BeamLayer) if attends_to_all(config) else None
