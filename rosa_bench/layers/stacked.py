"""Form the weights of many small low-rank layers at once, because kernel launches dominate their cost on a GPU.

A step of RoBERTa-base on 32 sentences of 16 tokens took some 1,400 kernels of 3 microseconds, half of them in its 48
low-rank layers. Here one batched product forms all weights of one shape, and each layer then acts as an ordinary linear
layer. Two batched products at the end of the backward pass give the gradients of all factors. An input that several
layers share, as queries, keys and values do, is cast once.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers, product_dtype, scaled
from rosa_bench.lowrank import merge

# In elements of a weight. A larger weight is better left to its own layer, which never forms a gradient of that size.
LARGEST = 1 << 20


class CastOnce:
    """A cast that remembers its last input and output, because the next layer often casts the same input."""

    def __init__(self) -> None:
        self.release()

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler removes repeated casts itself
            return x.to(dtype)
        if self.wide is not x or self.narrow is None or self.narrow.dtype != dtype:
            self.wide, self.narrow = x, x.to(dtype)
        return self.narrow

    def release(self) -> None:
        """Forget the last input and output."""
        self.wide: Tensor | None = None
        self.narrow: Tensor | None = None


class Stack:
    """Low-rank layers of one shape, scale and device, with their tensors stored contiguously: (n, out, in).

    The layers keep their parameters and buffers, but these become views of the stack and must be written in place.
    Build the stack before making an optimizer or capturing a graph.
    """

    def __init__(self, layers: list[LowRankLinear], cast: CastOnce):
        self.layers, self.cast = layers, cast
        self.scale = layers[0].scale
        self.residual, self.a, self.b = (
            torch.stack([getattr(layer, name).detach() for layer in layers]) for name in ("residual", "a", "b")
        )
        for number, layer in enumerate(layers):
            layer.residual.data, layer.a.data, layer.b.data = (each[number] for each in (self.residual, self.a, self.b))
            layer.cast = cast

    def form(self) -> None:
        """Form each layer's weight for one pass."""
        factors = [factor for name in ("a", "b") for factor in (getattr(layer, name) for layer in self.layers)]
        dtype = product_dtype(self.a.device, self.a.dtype)
        formed = materialise_all(self.residual, self.a, self.b, factors, scale=self.scale, dtype=dtype)
        for layer, weight in zip(self.layers, formed, strict=True):
            layer.materialised = weight

    def release(self) -> None:
        """Drop the formed weights, before the factors change."""
        self.cast.release()
        for layer in self.layers:
            layer.materialised = None


@contextmanager
def materialised(model: nn.Module, *, largest: int = LARGEST) -> Iterator[list[Stack]]:
    """Within the block, form the weights of small low-rank layers together, by shape, in each pass through ``model``.

    Yields the stacks. A stack has at least two layers, whose weights have at most ``largest`` elements. Layers with a
    fixed B are left alone: as ordinary linear layers they would keep their inputs, which they otherwise do without.
    """
    groups: dict[tuple, list[LowRankLinear]] = defaultdict(list)
    for layer in low_rank_layers(model):
        if layer.stackable and layer.train_b and layer.residual.ndim == 2 and layer.residual.numel() <= largest:
            groups[layer.shape, layer.a.shape, layer.scale, layer.residual.dtype, layer.residual.device].append(layer)
    cast = CastOnce()
    stacks = [Stack(layers, cast) for layers in groups.values() if len(layers) > 1]

    def form(*_: object) -> None:
        for stack in stacks:
            stack.form()

    def release(*_: object) -> None:
        for stack in stacks:
            stack.release()

    hooks = [model.register_forward_pre_hook(form), model.register_forward_hook(release, always_call=True)]
    try:
        yield stacks
    finally:
        release()
        for hook in hooks:
            hook.remove()


def materialise_all(
    residual: Float[Tensor, "n out in"],
    a: Float[Tensor, "n out r"],
    b: Float[Tensor, "n r in"],
    factors: list[nn.Parameter],
    *,
    scale: float,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "out in"], ...]:
    """Form each ``residual + scale a b`` in ``dtype``. Gradients go to ``factors``: n parts of a, then n of b."""
    return _Materialise.apply(residual, a, b, scale, dtype, *factors)  # pyright: ignore[reportReturnType]


class _Materialise(torch.autograd.Function):
    """Turns gradients of the full weights into gradients of the factors."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by position
        ctx: FunctionCtx, residual: Tensor, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype, *_factors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(a, b)
        ctx.scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(a.device.type, enabled=False):
            return merge(residual, a, b, scale).to(dtype).unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        scale: float = ctx.scale  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(a.device.type, enabled=False):
            whole = torch.stack(gradients)  # (n, out, in)
            da = scaled((whole @ b.to(whole.dtype).mT).to(a.dtype), scale)
            db = scaled((a.to(whole.dtype).mT @ whole).to(b.dtype), scale)
        return None, None, None, None, None, *da.unbind(), *db.unbind()
