"""Many small low-rank layers formed at once: what one of them costs on a GPU is the launching of its kernels.

The step of RoBERTa-base on 32 sentences of 16 tokens was some 1,400 kernels of 3 microseconds, half of them those of
its 48 low-rank layers. Here all weights of one shape are formed by one batched product, each layer is then an ordinary
linear one, and the gradients of all factors come from two batched products at the end of the backward pass. An input
that several layers read, as queries, keys and values do, is brought to the product's type once.
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

# Elements of a weight. A larger one is better served by its own layer, which never makes a gradient of that size.
LARGEST = 1 << 20


class CastOnce:
    """The last input that was brought to another type, and what came out: the next layer may ask for the same."""

    def __init__(self) -> None:
        self.release()

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if torch.compiler.is_compiling():  # which finds out by itself what is computed twice
            return x.to(dtype)
        if self.wide is not x or self.narrow is None or self.narrow.dtype != dtype:
            self.wide, self.narrow = x, x.to(dtype)
        return self.narrow

    def release(self) -> None:
        """Forget both."""
        self.wide: Tensor | None = None
        self.narrow: Tensor | None = None


class Stack:
    """Low-rank layers of one shape, scale and device, whose tensors are made to lie side by side: (n, out, in).

    The layers keep their parameters and buffers, which are now views of these and must be written in place. Before
    an optimizer is made of them, or anything captured.
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
        """Give each layer its weight, for one pass."""
        factors = [factor for name in ("a", "b") for factor in (getattr(layer, name) for layer in self.layers)]
        dtype = product_dtype(self.residual.device, self.residual.dtype)
        formed = materialise_all(self.residual, self.a, self.b, factors, scale=self.scale, dtype=dtype)
        for layer, weight in zip(self.layers, formed, strict=True):
            layer.materialised = weight

    def release(self) -> None:
        """Take the weights back, before the factors change."""
        self.cast.release()
        for layer in self.layers:
            layer.materialised = None


@contextmanager
def materialised(model: nn.Module, *, largest: int = LARGEST) -> Iterator[list[Stack]]:
    """Inside the block each pass through ``model`` forms the weights of its small low-rank layers, shape by shape.

    Yields the stacks: those of at least two layers, of weights of ``largest`` elements at most.
    """
    groups: dict[tuple, list[LowRankLinear]] = defaultdict(list)
    for layer in low_rank_layers(model):
        if layer.residual.ndim == 2 and layer.residual.numel() <= largest:
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
    """Each ``residual + scale a b`` in ``dtype``. Gradients go to ``factors``: the n parts of a, then those of b."""
    return _Materialise.apply(residual, a, b, scale, dtype, *factors)  # pyright: ignore[reportReturnType]


class _Materialise(torch.autograd.Function):
    """Gradients of the whole weights come in, each as large as its weight; those of the factors go out."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd takes them in order
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
