"""Keys and values of the tokens so far, kept for beam search: written in place, and moved as little as can be.

transformers' own cache is copied whole at every token, once to append to it and once to put the beams in order: with
many beams that takes longer than the model does.
"""

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


class BeamLayer(DynamicLayer):
    """One layer's keys and values, (prompts x beams, heads, tokens, size), in buffers with room for more tokens.

    All beams of a prompt have the prompt's own tokens in common: only what was written after them is put in order.
    """

    ROOM = 64  # tokens, by which the buffers grow

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.prompt = key_states.shape[-2]  # tokens
        self.buffers = [key_states[..., :0, :], value_states[..., :0, :]]

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        for number, states in enumerate((key_states, value_states)):
            if after > self.buffers[number].shape[-2]:
                room = states.new_empty(*states.shape[:-2], after - before + self.ROOM, states.shape[-1])
                self.buffers[number] = torch.cat([self.buffers[number][..., :before, :], room], -2)
            self.buffers[number][..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self.buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put beam ``beam_idx[i]`` in the place of beam ``i``; both are beams of one prompt."""
        beam_idx = beam_idx.to(self.device)
        places = torch.arange(len(beam_idx), device=self.device)
        if self.device.type == "cpu":  # elsewhere, to ask which of them move takes longer than to move them all
            places = places[beam_idx != places]
        for states in (self.keys, self.values):
            assert states is not None
            written = states[..., self.prompt :, :]
            written[places] = written[beam_idx[places]]


def beam_cache(config: PretrainedConfig) -> Cache | None:
    """An empty cache for a model; none for one of which some layers see only the tokens near by, or none before."""
    layers = DynamicCache(config=config).layers
    return Cache(layer_class_to_replicate=BeamLayer) if all(type(layer) is DynamicLayer for layer in layers) else None
