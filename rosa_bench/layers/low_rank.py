"""The layers that methods put in the place of a model's linear ones, and the putting.

Each stands in for one weight, or for a stack of them (`rosa_bench.layers.linear`).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.linear import Linear, linear, weight_of
from rosa_bench.lowrank import merge


class LowRankLinear(Adapter):
    """``y = x (residual + scale A B)^T + bias`` with a frozen residual and trained factors A, B.

    One layer serves LoRA (residual = W, scale = alpha / r) and ROSA (residual = W - A B, scale = 1): they differ in
    what they write into these tensors, and when. The residual is kept in the weight's own type (float32, as loaded),
    because hundreds of merges into a bfloat16 residual would wear it away.

    materialised  the whole weight for this pass, where it is computed with other layers' (`rosa_bench.layers.stacked`)
    cast          brings an input to the type of a materialised weight
    """

    residual: Float[Tensor, "*n out in"]

    def __init__(self, plain: Linear, rank: int, *, scale: float = 1.0):
        super().__init__(plain)
        weight = weight_of(plain)
        *stack, rows, columns = weight.shape
        self.scale = scale
        self.materialised: Tensor | None = None
        self.cast: Callable[[Tensor, torch.dtype], Tensor] = Tensor.to
        # A copy: a resample writes into it, and must never write into a weight that another layer shares.
        self.register_buffer("residual", weight.detach().clone(memory_format=torch.contiguous_format))
        self.a = nn.Parameter(weight.new_zeros(*stack, rows, rank))
        self.b = nn.Parameter(weight.new_zeros(*stack, rank, columns))

    @property
    def shape(self) -> torch.Size:
        """(out, in), after the stack's size where there is one."""
        return self.residual.shape

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.materialised is not None:
            return linear(self.cast(x, self.materialised.dtype), self.materialised, self.bias)
        return low_rank_linear(x, self.residual, self.a, self.b, self.bias, scale=self.scale)

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        return merge(self.residual, self.a, self.b, self.scale)

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
) -> Float[Tensor, "*batch out"]:
    """``x (residual + scale a b)^T + bias`` by one matrix product of full size, forward and backward.

    Equal to the two-branch form ``x residual^T + scale (x b^T) a^T + bias``, but for rounding. Gradients flow to x, a,
    b and bias, never to the residual. Under autocast the weight is formed in the residual's own type and cast
    once, as autocast would cast a plain layer's weight. Differentiable once.
    """
    return _LowRankLinear.apply(x, residual, a, b, bias, scale)  # pyright: ignore[reportReturnType]


class _LowRankLinear(torch.autograd.Function):
    """Keeps x and the formed weight; the weight's own gradient, as large as the weight, is never made."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd takes them in order
        ctx: FunctionCtx, x: Tensor, residual: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        dtype = product_dtype(x.device, x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            weight = merge(residual, a, b, scale).to(dtype)
            x = x.to(dtype)
            y = linear(x, weight, None if bias is None else bias.to(dtype))
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, a, b = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        scale: float = ctx.scale  # pyright: ignore[reportAttributeAccessIssue]
        need_x, _, need_a, need_b, need_bias, _ = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(x.device.type, enabled=False):
            stack = weight.shape[:-2]
            rows, flat = (tensor.reshape(*stack, -1, tensor.shape[-1]) for tensor in (dy, x))  # (*n, tokens, out or in)
            dx = dy @ weight if need_x else None
            da = scaled((rows.mT @ (flat @ b.to(x.dtype).mT)).to(a.dtype), scale) if need_a else None
            db = scaled(((rows @ a.to(x.dtype)).mT @ flat).to(b.dtype), scale) if need_b else None
            dbias = rows.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)) if need_bias else None
        return dx, None, da, db, dbias, None


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type in which a matrix product of such tensors is made here: autocast's, where it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def scaled(tensor: Tensor, scale: float) -> Tensor:
    """``scale * tensor``; the tensor itself for 1, which on a GPU saves two kernels a layer in every step."""
    return tensor if scale == 1 else tensor * scale


def low_rank_layers(model: nn.Module) -> list[LowRankLinear]:
    """The low-rank layers of ``model``, in the model's own order."""
    return [layer for _, layer in adapters(model) if isinstance(layer, LowRankLinear)]
