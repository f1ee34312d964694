"""Small models for the tests of methods that insert layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MPNetConfig, MPNetForSequenceClassification, PreTrainedModel

from rosa_bench.methods.base import Method
from rosa_bench.models.attention import use_fast_attention

DECODERS = ("tiny_gpt2", "tiny_llama")


class Small:
    """Small models in float64 without dropout, with weights large enough that every part has an effect.

    ``mpnet_base`` is an MPNet with the declaration of the full-size model, and a small shape.
    """

    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(10) < torch.tensor([10, 7, 3, 10]).unsqueeze(1)).long()

    def __init__(self, compose: Callable[..., Any], tiny_model: Callable[..., PreTrainedModel]):
        self.compose, self.tiny_model = compose, tiny_model

    def model(self, name: str) -> PreTrainedModel:
        """The model as it is before a method is attached."""
        torch.manual_seed(0)
        model = small_mpnet() if name == "mpnet_base" else self.tiny_model(name)
        draws = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.2)
        return model.double().eval()

    def method(self, model: str, method: str, *overrides: str) -> Method:
        """The method as the command line makes it."""
        task = "restaurants" if model in DECODERS else "grammar"
        return self.compose(f"task={task}", f"model={model}", f"method={method}", *overrides).method

    def attach(self, model: str, method: str, *overrides: str) -> Any:
        """The model with the method attached."""
        return self.method(model, method, *overrides).attach(self.model(model))

    def logits(self, model: Any, ids: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Tensor:
        """The logits of each row, or for decoders of each token that is not padding."""
        if ids is None:
            ids, mask = self.ids, self.mask
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask, **options).logits
        return found if mask is None or found.ndim == 2 else found[mask.bool()]

    def move(self, model: nn.Module, seed: int = 3) -> Any:
        """Change every parameter that trains, and return the model."""
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.2)
        return model


def small_mpnet() -> PreTrainedModel:
    """An MPNet with two small layers and random weights."""
    shape = MPNetConfig(
        vocab_size=261, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = MPNetForSequenceClassification(shape)
    use_fast_attention(model)
    return model


@pytest.fixture
def small(compose: Callable[..., Any], tiny_model: Callable[..., PreTrainedModel]) -> Small:
    """See `Small`."""
    return Small(compose, tiny_model)
