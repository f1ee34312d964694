"""The layers that methods put in the place of a model's linear ones, and the putting.

Each stands in for one weight, or for a stack of them (`rosa_bench.linear`).
"""

import re
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from rosa_bench.errors import UserError
from rosa_bench.linear import LINEAR_TYPES, Linear, SplitLinear, linear, make_linear, weight_of


class Adapter(nn.Module):
    """What stands in for one linear layer: it keeps the layer's kind and bias, and can become it again."""

    bias: nn.Parameter | None

    def __init__(self, plain: Linear):
        super().__init__()
        self.plain_type = type(plain)
        self.register_parameter("bias", plain.bias)

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        """The weight of the plain layer that computes the same function."""
        raise NotImplementedError

    def merged_bias(self) -> nn.Parameter | None:
        """The bias of the plain layer that computes the same function."""
        return self.bias

    @torch.no_grad()
    def to_plain(self) -> Linear:
        """A layer of the original kind with the same function, and so with no added latency."""
        return make_linear(self.plain_type, self.merged_weight(), self.merged_bias())


class LowRankLinear(Adapter):
    """``y = x (residual + scale A B)^T + bias`` with a frozen residual and trained factors A, B.

    One layer serves LoRA (residual = W, scale = alpha / r) and ROSA (residual = W - A B, scale = 1): they differ in
    what they write into these tensors, and when. The residual is kept in the weight's own type (float32, as loaded),
    because hundreds of merges into a bfloat16 residual would wear it away.

    formed  the whole weight, where it was formed for this pass together with other layers' (`rosa_bench.stacked`)
    narrow  how inputs are brought to the type of a formed weight
    """

    residual: Float[Tensor, "*n out in"]

    def __init__(self, plain: Linear, rank: int, *, scale: float = 1.0):
        super().__init__(plain)
        weight = weight_of(plain)
        *stack, rows, columns = weight.shape
        self.scale = scale
        self.formed: Tensor | None = None
        self.narrow: Callable[[Tensor, torch.dtype], Tensor] = Tensor.to
        # A copy: a resample writes into it, and must never write into a weight that another layer shares.
        self.register_buffer("residual", weight.detach().clone(memory_format=torch.contiguous_format))
        self.a = nn.Parameter(weight.new_zeros(*stack, rows, rank))
        self.b = nn.Parameter(weight.new_zeros(*stack, rank, columns))

    @property
    def shape(self) -> torch.Size:
        """(out, in), after the stack's size where there is one."""
        return self.residual.shape

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.formed is not None:
            return linear(self.narrow(x, self.formed.dtype), self.formed, self.bias)
        return low_rank_linear(x, self.residual, self.a, self.b, self.bias, scale=self.scale)

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        return _formed(self.residual, self.a, self.b, self.scale)

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
            weight = _formed(residual, a, b, scale).to(dtype)
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


def _formed(residual: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return (torch.addmm if residual.ndim == 2 else torch.baddbmm)(residual, a, b, alpha=scale)


class ScaledLinear(Adapter):
    """A frozen linear layer whose input or output is multiplied by a trained vector, as in (IA)^3.

    The output is scaled after the bias, as the authors of (IA)^3 scale activations.

    Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
    arXiv 2205.05638, section 3.3.
    """

    weight: Float[Tensor, "*n out in"]

    def __init__(self, plain: Linear, *, side: str):
        super().__init__(plain)
        weight = weight_of(plain).detach()
        self.side = side
        self.register_buffer("weight", weight.contiguous())
        *stack, rows, columns = weight.shape
        self.factor = nn.Parameter(weight.new_ones(*stack, columns if side == "input" else rows))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        factor = self.factor if self.weight.ndim == 2 else self.factor.unsqueeze(-2)
        if self.side == "input":
            return linear(x * factor, self.weight, self.bias)
        y = linear(x, self.weight, self.bias)
        return (y * factor).to(y.dtype)  # autocast leaves a product of two types in the wider one

    def merged_weight(self) -> Float[Tensor, "*n out in"]:
        return self.weight * self.factor.unsqueeze(-2 if self.side == "input" else -1)

    @torch.no_grad()
    def merged_bias(self) -> nn.Parameter | None:
        if self.bias is None or self.side == "input":
            return self.bias
        return nn.Parameter(self.bias * self.factor)

    def extra_repr(self) -> str:
        *_, rows, columns = self.weight.shape
        return f"in={columns}, out={rows}, side={self.side}, bias={self.bias is not None}"


def replace_linears(model: nn.Module, names: list[str], make: Callable[[Linear], Adapter]) -> None:
    """Put ``make(layer)`` in the place of each linear layer named."""
    for name in names:
        untie(model, name)
        _replace(model, name, make(model.get_submodule(name)))  # pyright: ignore[reportArgumentType]


def restore_linears(model: nn.Module) -> None:
    """Make every adapter in ``model`` a plain layer again, with the same function, and join what was split."""
    for name, adapter in list(adapters(model)):
        _replace(model, name, adapter.to_plain())
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitLinear):
            _replace(model, name, module.joined())


def split_linear(model: nn.Module, name: str, count: int) -> list[str]:
    """Split a linear layer by its outputs into ``count`` equal ones, and return their names."""
    plain = model.get_submodule(name)
    rows = weight_of(plain).shape[0]  # pyright: ignore[reportArgumentType]
    if rows % count:
        raise UserError(f"{name} has {rows} outputs, which cannot be split into {count} equal blocks")
    _replace(model, name, SplitLinear(plain, count))  # pyright: ignore[reportArgumentType]
    return [f"{name}.blocks.{number}" for number in range(count)]


def untie(model: nn.Module, name: str) -> None:
    """Give a linear layer a weight of its own, where it shares one, as a language model's head does with its input.

    Without that, what is put in its place would change the input embedding too, or lose its own on saving.
    """
    plain = model.get_submodule(name)
    sharing = [other for other, weight in model.named_parameters(remove_duplicate=False) if weight is plain.weight]
    if len(sharing) == 1:
        return
    plain.weight = nn.Parameter(plain.weight.detach().clone(), requires_grad=plain.weight.requires_grad)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if hasattr(model, "config"):  # which a saved model is loaded by
        model.config.tie_word_embeddings = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """The adapters of ``model`` with their names, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name, module


def low_rank_layers(model: nn.Module) -> list[LowRankLinear]:
    """The low-rank layers of ``model``, in the model's own order."""
    return [layer for _, layer in adapters(model) if isinstance(layer, LowRankLinear)]


def linear_names(model: nn.Module, pattern: str) -> list[str]:
    """Names of the linear layers whose dotted name ends in a match of ``pattern``, in the model's own order.

    Raises `UserError` when there is none, with the kinds of names that there are.
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, LINEAR_TYPES)]
    found = [name for name in linears if name_matches(pattern, name)]
    if not found:
        # The layers of a stack differ only in their number: one line stands for all of them.
        kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in linears})
        raise UserError(f"method.targets={pattern} matches no linear layer; the layers are: {', '.join(kinds)}")
    return found


def name_matches(pattern: str, name: str) -> bool:
    """Whether ``name`` ends, from a dot on, in a full match of the regular expression ``pattern``."""
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) is not None
