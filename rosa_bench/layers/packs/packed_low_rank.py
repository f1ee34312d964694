"""The low-rank layers of a pack, with a backward pass that never computes the gradient of a frozen weight."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rosa_bench.layers.low_rank import LowRankLinear, product_dtype, scaled
from rosa_bench.layers.packs.run_stacks import Stacks, per_run


class PackedLowRank(nn.Module):
    """The low-rank layers of all runs: ``y = x residual^T + scale (x B^T) A^T + bias`` for each run's rows.

    The low-rank part is a branch of its own, unlike in `LowRankLinear`: forming every run's weight would take as much
    memory traffic as the product itself. A residual that is cast for autocast is kept, and cast again only after it has
    changed.
    """

    def __init__(self, layers: Sequence[LowRankLinear], stacks: Stacks):
        super().__init__()
        first = layers[0]
        self.count, self.scale, self.train_b = len(layers), first.scale, first.train_b
        self.a, self.b, self.bias = (stacks([getattr(it, name) for it in layers]) for name in ("a", "b", "bias"))
        # A fixed B may be shared, but a residual that no run changes is worth sharing: it is as large as the weight.
        self.b = self.b if self.b.ndim == 3 else self.b.expand(self.count, *self.b.shape)
        self.residual: Tensor = stacks([layer.residual for layer in layers])
        self._sources = [layer.residual for layer in layers]
        self._cast: Tensor | None = None
        self._version = -1
        self.inputs = SharedInputs()  # of this layer alone, until the pack gives it one for all layers

    def refresh(self) -> None:
        """Cast the residual again if it has changed. Call it before each pass that may be a replayed one."""
        version = sum(source._version for source in self._sources)
        if version != self._version and self._cast is not None:
            self._cast.copy_(self.residual)
        self._version = version

    def residual_as(self, dtype: torch.dtype) -> Tensor:
        """Return the residual in this type, which is kept for later passes."""
        if dtype == self.residual.dtype:
            return self.residual
        if self._cast is None or self._cast.dtype != dtype:
            self._cast = self.residual.to(dtype)
        return self._cast

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return self.inputs.output_of(self, x)


class SharedInputs:
    """Finds out which low-rank layers read the same input, as queries, keys and values do, and computes them together.

    Together they cast and project their input once, and add up its gradient inside matrix products.
    """

    def __init__(self) -> None:
        self._groups: dict[PackedLowRank, list[PackedLowRank]] = {}
        self._seen: list[tuple[PackedLowRank, Tensor, int]] | None = None  # calls, with the versions of their inputs
        self._waiting: dict[PackedLowRank, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note, in a pass inside the block, which layers have the same input."""
        self._seen = []
        yield
        alike = groupby(self._seen, lambda call: (id(call[1]), call[2], call[0].scale))
        groups = [[layer for layer, *_ in same] for _, same in alike]
        calls = Counter(layer for layer, *_ in self._seen)
        self._groups = {it[0]: it for it in groups if all(calls[layer] == 1 for layer in it)}
        self._seen = None

    def output_of(self, layer: PackedLowRank, x: Tensor) -> Tensor:
        """Return the layer's output, and compute those of the layers that will be called with the same input."""
        if self._seen is not None:
            self._seen.append((layer, x, x._version))
        given, y = self._waiting.pop(layer, (None, None))
        if y is not None and given is x:
            return y
        group = self._groups.get(layer, [layer])
        ours, *others = low_rank_outputs(group, x)
        self._waiting.update({other: (x, output) for other, output in zip(group[1:], others, strict=True)})
        return ours

    def release(self) -> None:
        """Forget outputs that no layer has asked for."""
        self._waiting.clear()


def low_rank_outputs(layers: Sequence[PackedLowRank], x: Float[Tensor, "*batch in"]) -> list[Tensor]:
    """Return the outputs of layers with the same input, all runs' rows in each."""
    rows = x.reshape(layers[0].count, -1, x.shape[-1])
    dtype = product_dtype(x.device, x.dtype)
    tensors = [[it.residual_as(dtype) for it in layers]]
    tensors += [[getattr(layer, name) for layer in layers] for name in ("a", "b", "bias")]
    found = _PackedLowRank.apply(rows, layers[0].scale, len(layers), *(one for group in tensors for one in group))
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in found]


class _PackedLowRank(torch.autograd.Function):
    """Saves the input, A, B and x B^T of each run. The gradient of a residual is never computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, layers: int, *tensors: Any) -> tuple[Tensor, ...]:
        residuals, a, b, biases = (tensors[start : start + layers] for start in range(0, 4 * layers, layers))
        dtype = residuals[0].dtype
        with torch.autocast(x.device.type, enabled=False):
            x, left = x.to(dtype), [factor.to(dtype) for factor in a]
            right = (b[0] if layers == 1 else torch.cat(b, 1)).to(dtype)  # (runs, r of all layers, in)
            projected = x @ right.mT  # (runs, rows, r of all layers)
            outputs = []
            for residual, bias, factor, part in zip(
                residuals, biases, left, projected.split([it.shape[1] for it in b], -1), strict=True
            ):
                y = per_run(x, residual, None if bias is None else bias.to(dtype))
                outputs.append(y.baddbmm_(part, factor.mT, alpha=scale))
        needs_b = any(ctx.needs_input_grad[3 + 2 * layers : 3 + 3 * layers])
        ctx.save_for_backward(right, projected, *residuals, *left, *([x] if needs_b else []))
        ctx.scale, ctx.layers, ctx.dtype, ctx.ranks = scale, layers, a[0].dtype, [it.shape[1] for it in b]
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor):  # pyrefly: ignore[bad-override]
        right, projected, *rest = ctx.saved_tensors
        layers, scale, dtype = ctx.layers, ctx.scale, ctx.dtype
        residuals, left, x = rest[:layers], rest[layers : 2 * layers], rest[2 * layers :]
        need_x, *_ = ctx.needs_input_grad
        need_a, need_b, need_bias = (ctx.needs_input_grad[3 + n * layers : 3 + (n + 1) * layers] for n in (1, 2, 3))
        none = [None] * layers
        dx, da, db, dbias = None, list[Tensor | None](none), list[Tensor | None](none), list[Tensor | None](none)
        with torch.autocast(dys[0].device.type, enabled=False):
            through = [dy @ factor for dy, factor in zip(dys, left, strict=True)]  # (runs, rows, r) each
            joined = through[0] if layers == 1 else torch.cat(through, -1)
            if need_x:
                dx = dys[0] @ residuals[0]
                for dy, residual in zip(dys[1:], residuals[1:], strict=True):
                    add_product(dx, dy, residual)
                dx.baddbmm_(joined, right, alpha=scale)
            for number, (dy, part) in enumerate(zip(dys, projected.split(ctx.ranks, -1), strict=True)):
                if need_a[number]:
                    da[number] = scaled((dy.mT @ part).to(dtype), scale)
                if need_bias[number]:
                    dbias[number] = dy.sum(1, dtype=torch.promote_types(dy.dtype, torch.float32))
            if any(need_b):
                db = list(scaled((joined.mT @ x[0]).to(dtype), scale).split(ctx.ranks, 1))
        return dx, None, None, *none, *da, *db, *dbias


def add_product(total: Float[Tensor, "k n in"], left: Float[Tensor, "k n out"], right: Tensor) -> None:
    """Add ``left right`` to ``total``, in place. ``right`` (out, in) is shared or has a dimension for the runs."""
    if right.ndim == 3:
        total.baddbmm_(left, right)
    else:
        total.flatten(0, 1).addmm_(left.flatten(0, 1), right)
