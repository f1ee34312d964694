from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

Learned = tuple[list[float], dict[str, Tensor]]


@pytest.fixture
def learn() -> Callable[[PreTrainedModel, Any, Mapping[str, Tensor]], Learned]:
    """Four steps of a method on one batch, ROSA with a resample: their losses, and the gradients of the last."""

    def steps(
        model: PreTrainedModel, method: Any, batch: Mapping[str, Tensor]
    ) -> tuple[list[float], dict[str, Tensor]]:
        losses, gradients = [], {}
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        optimizer = torch.optim.SGD(trained.values(), lr=0.1)
        for number in range(4):
            if number == 2 and method.name == "rosa":
                method.resample(model, number)
            loss = model(**batch).loss
            loss.backward()
            losses.append(loss.item())
            gradients = {name: it.grad.clone() for name, it in trained.items() if it.grad is not None}
            assert gradients.keys() == trained.keys()
            optimizer.step()
            optimizer.zero_grad()
        return losses, gradients

    return steps
