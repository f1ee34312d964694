"""The tensors of several runs as one, with a leading dimension for the runs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Stacks:
    """Stacks the runs' tensors, once each. A tensor that all runs share is left as it is.

    trained  each stack that trains, (runs, ...), with the runs' parameters that are views of it
    """

    def __init__(self) -> None:
        self.trained: list[tuple[nn.Parameter, list[nn.Parameter]]] = []
        self._known: dict[int, Tensor] = {}

    def __call__(self, tensors: Sequence[Tensor | None]) -> Any:
        """Return the stack of one tensor of each run, the tensor itself if it is shared, or None if there is none."""
        first, *others = tensors
        if first is None or all(other is first for other in others):
            return first
        if id(first) not in self._known:
            self._known[id(first)] = self._stack([tensor for tensor in tensors if tensor is not None])
        return self._known[id(first)]

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        whole = torch.stack([tensor.detach() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.data = whole[place]
        if not tensors[0].requires_grad:
            return whole
        parameter = nn.Parameter(whole)
        self.trained.append((parameter, tensors))  # pyrefly: ignore[bad-argument-type]
        return parameter

    def hand_out_gradients(self) -> None:
        """Give each run's parameters their part of the gradients, as views where they have none yet.

        A weight that an embedding and an output layer share has one from the embedding.
        """
        for whole, parameters in self.trained:
            if whole.grad is None:
                continue
            for parameter, gradient in zip(parameters, whole.grad.unbind(), strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            whole.grad = None


def per_run(x: Float[Tensor, "k n in"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "k n out"]:
    """Return ``x weight^T + bias``. Weight (out, in) and bias (out) are shared, or have a first dimension of runs."""
    if weight.ndim == 2 and (bias is None or bias.ndim == 1):
        return functional.linear(x, weight, bias)
    if weight.ndim == 2:
        return functional.linear(x, weight) + bias.unsqueeze(1)  # pyrefly: ignore[missing-attribute]
    if bias is None:
        return x @ weight.mT
    return torch.baddbmm(bias.unsqueeze(-2).expand(len(x), 1, -1), x, weight.mT)
