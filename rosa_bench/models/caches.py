"""The cache of keys and values that a decoder is given: its name, and one that keeps nothing, for training."""

import inspect

from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class NoCache(Cache):
    """A cache that keeps nothing, for a whole text in one pass.

    Without any cache, transformers asks the GPU in each pass whether a row holds several texts, and makes a mask if it
    cannot ask. With its own cache it copies all keys and values.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Return the keys and values as they are."""
        return key_states, value_states


def attends_to_all(config: PretrainedConfig) -> bool:
    """Return whether every layer attends to all previous tokens, so that these caches suit the model."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def cache_argument(model: PreTrainedModel) -> str:
    """Return the name of the model's cache argument: ``cache``, or ``past_key_values`` in older transformers."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
