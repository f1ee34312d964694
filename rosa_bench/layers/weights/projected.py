"""Projectors of weights that train whole while their optimizer works in a small space.

A weight is seen as tall, (long, short), whichever way its layer stores it. Its projector, (short, r), is a buffer of
the layer that owns it, so that checkpoints hold it. A gradient G becomes ``G P``, (long, r).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.layers.directions.gradients import leading_directions
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.layers.structure.linear import LINEAR_TYPES, Linear, weight_of

NAME = "projector"  # of the buffer


@dataclass(frozen=True)
class Projected:
    """A weight and its projector. ``transposed`` says whether the stored weight must be transposed to be tall."""

    weight: nn.Parameter
    projector: Float[Tensor, "*n short r"]
    transposed: bool


def add_projector(plain: Linear, rank: int) -> None:
    """Give a layer a projector of zeros, to be set before the first step."""
    *stack, rows, columns = plain.weight.shape
    plain.register_buffer(NAME, plain.weight.new_zeros(*stack, min(rows, columns), rank))


def projected(model: nn.Module) -> Iterator[Projected]:
    """Yield the weights that have projectors, in the model's order."""
    for module in model.modules():
        if isinstance(module, LINEAR_TYPES) and NAME in module._buffers:
            *_, rows, columns = weight_of(module).shape
            projector: Tensor = module.get_buffer(NAME)
            weight: nn.Parameter = module.weight  # pyrefly: ignore[bad-assignment]
            yield Projected(weight, projector, (rows < columns) != isinstance(module, Conv1D))


def remove_projectors(model: nn.Module) -> None:
    """Remove all projectors, which leaves plain layers."""
    for module in model.modules():
        module._buffers.pop(NAME, None)


def gradient_projectors(model: nn.Module, loss: Callable[[], Tensor], rank: int) -> list[Float[Tensor, "*n short r"]]:
    """Return the leading ``rank`` singular vectors, on the short side, of each projected weight's gradient of ``loss``.

    One gradient exists at a time. The model runs in evaluation mode, so that neither the state of random generators nor
    running statistics change; gradients of parameters stay as they are. Raises ValueError if a gradient is not finite.

    Source: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv 2403.03507,
    section 4.1. We differ in that the gradient is taken without dropout, before the step and before any clipping.
    """
    sought = {it.weight: it for it in projected(model)}
    found: dict[nn.Parameter, Tensor] = {}

    def take(weight: nn.Parameter) -> None:
        gradient, weight.grad = weight.grad, None  # one at a time exists
        if (it := sought.get(weight)) is not None and gradient is not None:
            found[weight] = _leading(it, gradient, rank)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in trained]
    hooks = [parameter.register_post_accumulate_grad_hook(take) for parameter in trained]
    try:
        for parameter in trained:
            parameter.grad = None
        with evaluating(model), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            loss().backward()
    finally:
        for hook, parameter, gradient in zip(hooks, trained, before, strict=True):
            hook.remove()
            parameter.grad = gradient
    return [
        found[weight] if weight in found else _leading(it, torch.zeros_like(weight), rank)
        for weight, it in sought.items()
    ]


def _leading(it: Projected, gradient: Tensor, rank: int) -> Float[Tensor, "*n short r"]:
    """Return the leading directions of a weight's gradient, found where the projector is."""
    gradient = gradient.to(it.projector.device)
    return leading_directions(gradient.mT if it.transposed else gradient, rank).mT


def random_projectors(model: nn.Module, generator: torch.Generator) -> list[Float[Tensor, "*n short r"]]:
    """Draw Gaussian projectors with variance 1/r, on the CPU. The mean of ``P P^T`` is the identity."""
    return [
        torch.randn(it.projector.shape, generator=generator).mul_(it.projector.shape[-1] ** -0.5)
        for it in projected(model)
    ]
