"""The low-rank layer of LoRA and ROSA, with a forward and backward pass that save memory.

It replaces one weight, or a stack of weights (`rosa_bench.layers.structure.linear`).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.exact import Update
from rosa_bench.layers.storage import halves
from rosa_bench.layers.storage.narrow import is_narrow
from rosa_bench.layers.structure.linear import Convolution, Linear, linear, weight_of
from rosa_bench.lowrank import Factors, merge
from rosa_bench.system.tensors import put, whole

EVERY = slice(None)  # all columns of A and rows of B


class LowRankLinear(Adapter):
    """``y = x (residual + scale A B)^T + bias``, with a frozen residual and trained factors A and B.

    LoRA uses it with residual = W and scale = alpha / r, ROSA with residual = W - A B and scale = 1. They differ in
    what they write into these tensors, and when. The residual keeps the weight's own type. Beside the weight of a
    `rosa_bench.layers.storage.narrow` layer, in bfloat16, the factors are float32. Hundreds of merges would degrade
    such a residual, so a method that writes into it keeps the remainder (`rosa_bench.layers.storage.halves`), and
    merging is exact.

    train_b       whether B trains. If not, it is a buffer, and a training step keeps x B^T instead of x
    materialised  the full weight for this pass, if it was formed with other layers' (`rosa_bench.layers.fused.stacked`)
    remainder     the bits of a float32 residual that its bfloat16 lacks, in the CPU's memory; None if there are none
    """

    large: ClassVar[tuple[str, ...]] = ("residual",)
    stackable: ClassVar[bool] = True  # whether its weight may be formed together with others'
    residual: Float[Tensor, "*n out in"]
    b: Tensor
    remainder: Tensor | None

    def __init__(self, plain: Linear | Convolution, rank: int, *, scale: float = 1.0, train_b: bool = True):
        super().__init__(plain)
        weight = weight_of(plain)
        *stack, rows, columns = weight.shape
        self.scale = scale
        self.materialised: Tensor | None = None
        self.hold(plain, weight)
        self.register_buffer("remainder", None)
        self.narrow = is_narrow(plain)
        dtype = torch.float32 if self.narrow else weight.dtype
        self.a = nn.Parameter(weight.new_zeros(*stack, rows, rank, dtype=dtype))
        b = weight.new_zeros(*stack, rank, columns, dtype=dtype)
        self.train_b = train_b
        if train_b:
            self.b = nn.Parameter(b)
        else:
            self.register_buffer("b", b)

    def hold(self, plain: Linear | Convolution, weight: Float[Tensor, "*n out in"]) -> None:  # noqa: ARG002 - for subclasses
        """Keep the frozen weight of the layer that this one replaces."""
        # Copy it: a resample writes into it in place, and another layer may share the weight.
        self.register_buffer("residual", weight.detach().clone(memory_format=torch.contiguous_format))

    @property
    def shape(self) -> torch.Size:
        """(out, in), or (n, out, in) for a stack."""
        return self.residual.shape

    @property
    def factors(self) -> list[nn.Parameter]:
        """The factors that train: A, and B unless it is fixed."""
        return [self.a, self.b] if isinstance(self.b, nn.Parameter) else [self.a]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.materialised is not None:
            return linear(x.to(self.materialised.dtype), self.materialised, self.bias)
        return low_rank_linear(x, self.residual, self.a, self.b, self.bias, scale=self.scale, train_b=self.train_b)

    def merged_weight(self, which: slice = EVERY) -> Float[Tensor, "*n out in"]:
        """Return ``residual + scale A B``, or with ``which`` of the r columns of A and rows of B alone."""
        return merge(self.exact_residual(), self.a[..., which], self.b[..., which, :], self.scale)

    def keep_remainder(self) -> None:
        """Keep what a residual in bfloat16 lacks from now on. Has no effect on one in float32."""
        if self.narrow:
            self.remainder = torch.zeros(self.shape, dtype=torch.int16)

    def exact_residual(self) -> Float[Tensor, "*n out in"]:
        """Return the whole residual with all its bits, beside the factors.

        That is itself, or a new tensor: float32 if it has a remainder, a copy if it is kept in the CPU's memory.
        """
        residual = whole(self.residual).to(self.a.device)
        return residual if self.remainder is None else halves.whole(residual, self.remainder.to(residual.device))

    @torch.no_grad()
    def write_residual(self, value: Float[Tensor, "*n out in"]) -> None:
        """Write a new residual in place, with all its bits. Raises ValueError if they have no place."""
        if self.remainder is not None:
            value, low = halves.halves(value)
            self.remainder.copy_(low)
        if value.dtype.itemsize > self.residual.dtype.itemsize:
            raise ValueError(f"a {value.dtype} residual does not fit into {self.residual.dtype}; call keep_remainder")
        put(self.residual, value)

    def reserve(self, directions: int) -> None:
        """Make room for draws that will replace so many directions in all. This layer needs none."""

    @torch.no_grad()
    def redraw(self, new: Factors, which: slice = EVERY, *, taken: bool) -> None:  # noqa: ARG002 - for other layers
        """Replace the residual, and ``which`` of the columns of A and rows of B, by new ones, in place.

        The new residual holds the product of those replaced; ``taken`` says that it lacks the product of the new ones,
        for layers that store no residual.
        """
        self.write_residual(new.residual)
        self.a[..., which].copy_(new.a)
        self.b[..., which, :].copy_(new.b)

    def update_since(self, plain: Float[Tensor, "*n out in"]) -> Update | None:
        """Return what training has added to the weight ``plain`` as exact factors, or None if they are unknown.

        They are known if the residual still has the values of the weight, as LoRA's has.
        """
        residual = self.exact_residual().cpu()
        if not torch.equal(residual, plain.to(residual.dtype)):
            return None
        a, b = (
            it.detach().to("cpu", torch.promote_types(it.dtype, torch.float32), copy=True) for it in (self.a, self.b)
        )
        return Update(self.scale * a, b)

    def weight_gradient(
        self, x: Float[Tensor, "*batch in"], dy: Float[Tensor, "*batch out"]
    ) -> Float[Tensor, "*n out in"]:
        """Return the loss's gradient by the formed weight, ``dy^T x`` summed over the tokens, in at least float32."""
        wide = torch.promote_types(dy.dtype, torch.float32)
        rows, flat = (tensor.reshape(*self.shape[:-2], -1, tensor.shape[-1]).to(wide) for tensor in (dy, x))
        with torch.autocast(x.device.type, enabled=False):
            return rows.mT @ flat

    def extra_repr(self) -> str:
        *_, rows, columns = self.shape
        return f"in={columns}, out={rows}, rank={self.a.shape[-1]}, scale={self.scale:g}, bias={self.bias is not None}"


def low_rank_linear(
    x: Float[Tensor, "*batch in"],
    residual: Float[Tensor, "*n out in"],
    a: Float[Tensor, "*n out r"],
    b: Float[Tensor, "*n r in"],
    bias: Float[Tensor, " out"] | None,
    *,
    scale: float = 1.0,
    train_b: bool = True,
) -> Float[Tensor, "*batch out"]:
    """Compute ``x (residual + scale a b)^T + bias`` with one full-size matrix product each way, forward and backward.

    This equals the two-branch form ``x residual^T + scale (x b^T) a^T + bias`` up to rounding. Gradients flow to x, a,
    b and bias, never to the residual. Without ``train_b`` none flows to b, and ``x b^T`` is kept for the backward pass
    instead of x. Under autocast the weight is formed in the wider type of residual and factors, and cast once, as
    autocast casts a plain layer's weight. If the residual is narrower than the factors, the weight is not kept for the
    backward pass, but formed again: then memory is what counts. Second derivatives are not supported.
    """
    rows = x if residual.ndim > 2 else x.reshape(-1, x.shape[-1])  # (tokens, in)
    y = _LowRankLinear.apply(rows, residual, a, b, bias, scale, train_b)
    return y.view(*x.shape[:-1], y.shape[-1])  # here, because a view made by the function may not be changed in place


class _LowRankLinear(torch.autograd.Function):
    """Saves the formed weight or its parts, and x, or x b^T if b is fixed. Never forms the full weight's gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by position
        ctx: FunctionCtx,
        x: Tensor,
        residual: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        scale: float,
        train_b: bool,
    ) -> Tensor:
        dtype = product_dtype(x.device, x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            weight = merge(residual, a, b, scale).to(dtype)
            x = x.to(dtype)
            y = linear(x, weight, None if bias is None else bias.to(dtype))
            kept = (x, a, b) if train_b else (x @ b.to(dtype).mT,)  # (tokens, in) or (tokens, r)
        formed = (residual, a, b) if residual.dtype.itemsize < a.dtype.itemsize else (weight,)
        ctx.save_for_backward(*formed, *kept)
        ctx.formed = len(formed)  # pyrefly: ignore[missing-attribute]
        ctx.scale, ctx.dtype = scale, a.dtype  # pyrefly: ignore[missing-attribute]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor):  # pyrefly: ignore[bad-override]
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # pyrefly: ignore[missing-attribute]
        (weight, *parts), (x, *factors) = saved[: ctx.formed], saved[ctx.formed :]  # pyrefly: ignore[missing-attribute]
        scale, dtype = ctx.scale, ctx.dtype  # pyrefly: ignore[missing-attribute]
        need_x, _, need_a, need_b, need_bias, *_ = ctx.needs_input_grad  # pyrefly: ignore[missing-attribute]
        da = db = None
        with torch.autocast(x.device.type, enabled=False):
            stack = weight.shape[:-2]
            rows, flat = (tensor.reshape(*stack, -1, tensor.shape[-1]) for tensor in (dy, x))  # (*n, tokens, out or in)
            if parts and need_x:
                weight = merge(weight, parts[0], parts[1], scale).to(x.dtype)
            dx = dy @ weight if need_x else None
            if need_a:
                projected = flat @ factors[1].to(x.dtype).mT if factors else flat  # (*n, tokens, r)
                da = scaled((rows.mT @ projected).to(dtype), scale)
            if need_b and factors:
                db = scaled(((rows @ factors[0].to(x.dtype)).mT @ flat).to(dtype), scale)
            dbias = rows.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)) if need_bias else None
        return dx, None, da, db, dbias, None, None


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the type of a matrix product of such tensors: autocast's if it is on, else ``dtype``."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def scaled(tensor: Tensor, scale: float) -> Tensor:
    """Return ``scale * tensor``, or the tensor itself if scale is 1, which saves two GPU kernels per layer and step."""
    return tensor if scale == 1 else tensor * scale


def low_rank_layers(model: nn.Module) -> list[LowRankLinear]:
    """Return the low-rank layers of ``model``, in the model's order."""
    return [layer for _, layer in adapters(model) if isinstance(layer, LowRankLinear)]
