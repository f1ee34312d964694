"""Form the weights of many small low-rank layers at once, because kernel launches dominate their cost on a GPU.

A step of RoBERTa-base on 32 sentences of 16 tokens took some 1,400 kernels of 3 microseconds, half of them in its 48
low-rank layers. Here one batched product forms all weights of one shape, and each layer then acts as an ordinary linear
layer. Two batched products at the end of the backward pass give the gradients of all factors.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.layers.fused.joined import Join
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers, product_dtype, scaled
from rosa_bench.lowrank import merge

# In elements of a weight. A larger weight is better left to its own layer, which never forms a gradient of that size.
LARGEST = 1 << 20
T = TypeVar("T")


class Stack:
    """Low-rank layers of one shape, scale and device, with their tensors stored contiguously: (n, out, in).

    The layers keep their parameters and buffers, but these become views of the stack and must be written in place.
    Build the stack before making an optimizer or capturing a graph.
    """

    def __init__(self, layers: list[LowRankLinear]):
        self.layers, self.scale = layers, layers[0].scale
        self.residual, self.a, self.b = (
            torch.stack([getattr(layer, name).detach() for layer in layers]) for name in ("residual", "a", "b")
        )
        for number, layer in enumerate(layers):
            layer.residual.data, layer.a.data, layer.b.data = (each[number] for each in (self.residual, self.a, self.b))


class Family:
    """Stacks whose weights are formed one below the other, for layers that compute alone or in joins.

    A join's weight has rows from each stack: those of queries, for example, and those of keys and values, which have
    another shape. Without joins there is one stack, and each layer gets its own weight.
    """

    def __init__(self, stacks: Sequence[Stack], joins: Sequence[Join] = ()):
        self.stacks, self.joins = stacks, joins

    def form(self) -> None:
        """Form each join's or layer's weight for one pass."""
        factors = [getattr(layer, name) for stack in self.stacks for name in ("a", "b") for layer in stack.layers]
        count = len(self.joins) or len(self.stacks[0].layers)
        formed = materialise_all(self.stacks, factors, count=count)
        for join, weight in zip(self.joins, formed, strict=False):
            join.weight = weight
        if not self.joins:
            for layer, weight in zip(self.stacks[0].layers, formed, strict=True):
                layer.materialised = weight

    def release(self) -> None:
        """Drop the formed weights, before the factors change."""
        for join in self.joins:
            join.release()
        for stack in self.stacks:
            for layer in stack.layers:
                layer.materialised = None


@contextmanager
def materialised(model: nn.Module, *, largest: int = LARGEST, joins: Sequence[Join] = ()) -> Iterator[list[Stack]]:
    """Within the block, form the weights of small low-rank layers together, by shape, in each pass through ``model``.

    Yields the stacks. A stack has at least two layers, whose weights have at most ``largest`` elements. Layers with a
    fixed B are left alone: as ordinary linear layers they would keep their inputs, which they otherwise do without.
    ``joins`` are layers that compute together (`rosa_bench.layers.fused.joined`). A join with a layer that is not
    stacked gets no weight, so its layers compute alone.
    """
    layers = [layer for layer in low_rank_layers(model) if _is_small(layer, largest)]
    stackable = [join for join in joins if all(layer in layers for layer in join.layers)]
    families = [_family(same) for same in _grouped(stackable, lambda join: tuple(map(_kind, join.layers)))]
    alone = [layer for layer in layers if not any(layer in join.layers for join in stackable)]
    families += [Family([Stack(same)]) for same in _grouped(alone, _kind) if len(same) > 1]

    def form(*_: object) -> None:
        for family in families:
            family.form()

    def release(*_: object) -> None:
        for family in families:
            family.release()

    hooks = [model.register_forward_pre_hook(form), model.register_forward_hook(release, always_call=True)]
    try:
        yield [stack for family in families for stack in family.stacks]
    finally:
        release()
        for hook in hooks:
            hook.remove()


def _is_small(layer: LowRankLinear, largest: int) -> bool:
    if not (layer.stackable and layer.train_b):  # without a residual if not stackable
        return False
    return layer.residual.ndim == 2 and layer.residual.numel() <= largest


def _kind(layer: LowRankLinear) -> tuple:
    return layer.shape, layer.a.shape, layer.scale, layer.residual.dtype, layer.residual.device


def _grouped(items: Iterable[T], key: Callable[[T], tuple]) -> list[list[T]]:
    groups: dict[tuple, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _family(joins: list[Join]) -> Family:
    """Return the family of joins with the same kinds of layers: a stack for each run of layers of one kind."""
    places = [list(run) for _, run in groupby(range(len(joins[0].layers)), lambda place: _kind(joins[0].layers[place]))]
    return Family([Stack([join.layers[place] for join in joins for place in run]) for run in places], joins)


def materialise_all(
    stacks: Sequence[Stack], factors: list[nn.Parameter], *, count: int
) -> tuple[Float[Tensor, "rows in"], ...]:
    """Form each ``residual + scale a b`` of the stacks in the type of the products, and return ``count`` weights.

    Each has its share of the layers of every stack, one below the other. Gradients go to ``factors``: for each stack
    the parts of a, then those of b.
    """
    dtype = product_dtype(stacks[0].a.device, stacks[0].a.dtype)
    return _Materialise.apply(stacks, count, dtype, *factors)


class _Materialise(torch.autograd.Function):
    """Turns gradients of the full weights into gradients of the factors."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, stacks: Sequence[Stack], count: int, dtype: torch.dtype, *_factors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*(tensor for stack in stacks for tensor in (stack.a, stack.b)))
        ctx.scales = [stack.scale for stack in stacks]  # pyrefly: ignore[missing-attribute]
        with torch.autocast(stacks[0].a.device.type, enabled=False):
            parts = (merge(it.residual, it.a, it.b, it.scale).view(count, -1, it.residual.shape[-1]) for it in stacks)
            if len(stacks) == 1:
                return next(parts).to(dtype).unbind()
            heights = [stack.residual.shape[0] // count * stack.residual.shape[1] for stack in stacks]
            whole = stacks[0].residual.new_empty(count, sum(heights), stacks[0].residual.shape[-1], dtype=dtype)
            for target, part in zip(whole.split(heights, 1), parts, strict=True):
                target.copy_(part)
            return whole.unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor):  # pyrefly: ignore[bad-override]
        factors: tuple[Tensor, ...] = ctx.saved_tensors  # pyrefly: ignore[missing-attribute]
        scales: list[float] = ctx.scales  # pyrefly: ignore[missing-attribute]
        found: list[Tensor] = []
        with torch.autocast(factors[0].device.type, enabled=False):
            whole = torch.stack(gradients)  # (joins or layers, rows, in)
            start = 0
            for scale, a, b in zip(scales, factors[::2], factors[1::2], strict=True):
                height = len(a) // len(whole) * a.shape[1]
                part = whole[:, start : start + height].reshape(len(a), a.shape[1], -1)
                start += height
                found += scaled((part @ b.to(whole.dtype).mT).to(a.dtype), scale).unbind()
                found += scaled((a.to(whole.dtype).mT @ part).to(b.dtype), scale).unbind()
        return None, None, None, *found
