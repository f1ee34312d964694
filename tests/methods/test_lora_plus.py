"""How LoRA+ differs from LoRA: the factor that starts at zero has a larger learning rate."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.system.errors import UserError
from rosa_bench.training.state import Recipe, Training

Compose = Callable[..., RunConfig]
TINY = ("task=grammar", "model=tiny_roberta", "rank=2", "protocol=fair")


def trained(compose: Compose, model: Any, *overrides: str, steps: int = 2) -> None:
    """Train with the run's optimizer for some steps, alternating learning rates 1e-3 and 2e-3."""
    config = compose(*TINY, *overrides)
    config.method.attach(model)
    recipe = Recipe(lr=1e-3, epochs=1, warmup_steps=0, optimizer=config.optimizer, accumulate=1, reset="factors")
    training = Training(model, config.method, recipe, steps_per_epoch=steps, device=torch.device("cpu"))
    ids = torch.randint(5, 261, (4, 10), generator=torch.Generator().manual_seed(2))
    for step in range(steps):
        training.set_lr(1e-3 * (1 + step % 2))
        model(input_ids=ids, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()


def factors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_ratio_of_one_equals_lora(compose: Compose, tiny_model: Callable[..., PreTrainedModel]) -> None:
    plus, lora = tiny_model("tiny_roberta"), tiny_model("tiny_roberta")
    trained(compose, plus, "method=lora_plus", "method.ratio=1")
    trained(compose, lora, "method=lora")
    found, expected = factors(plus), factors(lora)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_zero_factor_moves_ratio_times_as_far_and_the_rest_as_in_lora(
    compose: Compose, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    # AdamW's first step has the size of the learning rate, for any gradient.
    plus, lora = tiny_model("tiny_roberta"), tiny_model("tiny_roberta")
    trained(compose, plus, "method=lora_plus", "method.ratio=16", steps=1)
    trained(compose, lora, "method=lora", steps=1)
    found, expected = factors(plus), factors(lora)
    for name, factor in expected.items():
        scale = 16 if name.endswith(".a") else 1
        torch.testing.assert_close(found[name], scale * factor, rtol=1e-5, atol=1e-8)
    assert any(factor.any() for name, factor in expected.items() if name.endswith(".a"))


def test_a_ratio_must_be_above_zero(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"method\.ratio=0.*must be above 0"):
        compose(*TINY, "method=lora_plus", "method.ratio=0")
