"""Operations over the rows of a pack: several runs whose rows lie one after another in one batch.

A pack of ``count`` runs sees ``(count * n, ...)``: n rows of the first run, then the same n rows for the second, and so
on. Most operations act on each row alone. The few that do not are replaced here, so that each run gets what it would
get alone: its own mean loss, and the same dropout masks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SHORT = 64  # tokens


class ByRun(TorchFunctionMode):
    """Inside the block, losses are means over each run's rows, ``(count)``, and all runs share one dropout mask.

    On a GPU, fused attention kernels draw their own masks for sequences longer than `SHORT`, so those of attention
    weights differ between runs. They still depend on nothing but the number of runs and the run's place.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        own = _OWN.get(func)
        return func(*args, **(kwargs or {})) if own is None else own(self.count, *args, **(kwargs or {}))


def cross_entropy(  # noqa: PLR0917 - in torch's order
    count: int,
    input: Tensor,  # noqa: A002 - as torch names it
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,  # noqa: ARG001 - deprecated, and part of torch's signature
    ignore_index: int = -100,
    reduce: None = None,  # noqa: ARG001 - likewise
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute each run's mean over the labels that are not ignored."""
    whole = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if reduction != "mean" or weight is not None:
        return functional.cross_entropy(input, target, reduction=reduction, **whole)
    losses = functional.cross_entropy(input, target, reduction="none", **whole).view(count, -1)
    return losses.sum(1) / (target.view(count, -1) != ignore_index).sum(1)


def mse_loss(count: int, input: Tensor, target: Tensor, *args: Any, reduction: str = "mean", **options: Any) -> Tensor:  # noqa: A002
    """Compute each run's mean squared error."""
    if reduction != "mean":
        return functional.mse_loss(input, target, *args, reduction=reduction, **options)
    return (input - target).square().view(count, -1).mean(1)


def dropout(count: int, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """Drop the same entries of each run's rows: those that the run would drop alone."""
    if not training or p in {0, 1}:  # a run alone draws no mask then
        return functional.dropout(input, p, training, inplace)
    _, mask = torch.native_dropout(input.detach()[: len(input) // count], p, train=True)
    whole = mask.repeat(count, *[1] * (mask.ndim - 1))  # a kernel that broadcasts would be slower, and run twice
    return _Masked.apply(input, whole, 1 / (1 - p))


class _Masked(torch.autograd.Function):
    """``x * mask * scale`` in one kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(x, mask, scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(dy, mask, ctx.scale), None, None


def attention(  # noqa: PLR0917 - in torch's order
    count: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """Attend with one dropout mask for all runs, (rows, heads, length, width).

    With fused kernels on a GPU, each run has its own. They are used for lengths above `SHORT`. Below it they are slow:
    at 16 tokens, they took a third of the step of a pack of eight.
    """
    fused = query.is_cuda and key.shape[-2] > SHORT
    if dropout_p == 0 or fused or options.get("enable_gqa"):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, **options
        )
    scores = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    return (dropout(count, weights, dropout_p).to(value.dtype) @ value).to(query.dtype)


_OWN: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.cross_entropy: cross_entropy,
    functional.mse_loss: mse_loss,
    functional.dropout: dropout,
    functional.scaled_dot_product_attention: attention,
}
