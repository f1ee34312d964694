"""The leading directions of the gradients of whole weights, which the low-rank layers otherwise never form."""

from collections import Counter
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.lowrank import leading_basis


def gradient_directions(model: nn.Module, loss: Callable[[], Tensor], rank: int) -> list[Float[Tensor, "*n r in"]]:
    """Return the top ``rank`` right singular directions of each low-rank layer's gradient of ``loss`` by its weight.

    One layer's gradient exists at a time. The model runs in evaluation mode, so that neither the state of random
    generators nor running statistics change; gradients of parameters stay as they are. A layer that the loss does not
    use gets arbitrary orthonormal directions. Raises ValueError if a gradient is not finite.

    Source: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv 2403.03507,
    section 4.1. We differ in that the gradient is taken without dropout.
    """
    layers = low_rank_layers(model)
    found: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()
    sums: dict[nn.Module, Tensor] = {}  # of layers that were called several times, until the last gradient arrives

    def watch(layer: LowRankLinear, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        x = inputs[0].detach()
        calls[layer] += 1

        def take(dy: Tensor) -> None:
            gradient = layer.weight_gradient(x, dy)
            gradient = gradient + sums.pop(layer) if layer in sums else gradient
            calls[layer] -= 1
            if calls[layer]:
                sums[layer] = gradient
            else:
                found[layer] = leading_directions(gradient, rank)

        y.register_hook(take)

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    # A compiled model would not see these hooks.
    with evaluating(model), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        try:
            value = loss()
        finally:
            for hook in hooks:
                hook.remove()  # or a pass that is recomputed below would count as a second one
        torch.autograd.grad(value, [layer.a for layer in layers], allow_unused=True)
    return [found[it] if it in found else leading_directions(it.a.new_zeros(it.shape), rank) for it in layers]


@torch.no_grad()
def leading_directions(gradient: Float[Tensor, "*n out in"], rank: int) -> Float[Tensor, "*n r in"]:
    """Return the top ``rank`` right singular directions. Raises ValueError if the gradient is not finite."""
    if not torch.isfinite(gradient).all():
        raise ValueError("the gradient of a weight contains NaN or Inf")
    return leading_basis(gradient, rank)
