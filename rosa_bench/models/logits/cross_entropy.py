"""The cross-entropy of an output layer, computed in chunks of tokens, so that the logits of all are never held at once.

The logits of 4,096 tokens over a vocabulary of 49,152 take 0.8 GB in float32, and the plain loss holds two or three
such tensors. Here each chunk's logits become a loss and gradients before the next chunk's are computed. Fused kernels
do the same, such as Liger's (Hsu et al., arXiv 2410.10989). This one is made of PyTorch's operations, so it runs on
every device, and it calls the output layer itself, so an adapted layer keeps its own backward pass.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import cross_entropy

from rosa_bench.data.batches import IGNORED

LARGEST = {"cpu": 1 << 23, "cuda": 1 << 26}  # elements of a chunk's logits
MULTIPLE = 128  # of tokens in a chunk, which suits a GPU's matrix products


def chunked_cross_entropy(
    head: nn.Module,
    hidden: Float[Tensor, "tokens width"],
    labels: Int64[Tensor, " tokens"],
    *,
    vocab_size: int,
    kernel: "Kernel",
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of ``cross_entropy(head(hidden), labels)`` over the labels that are not `IGNORED`.

    The loss and its gradients by ``hidden`` and by the head's parameters are PyTorch's, up to rounding. The softmax is
    computed in at least float32. Without any label the loss is NaN. ``vocab_size`` is the width of the logits.
    ``chunk`` is the largest number of tokens whose logits are held at once; by default it follows from `LARGEST`.

    Gradients are computed in the forward pass, and only for tensors that require one, so a frozen head has none.
    Second derivatives are not supported.
    """
    if hidden.device.type == "cpu":  # elsewhere the host would have to wait for the number of labels
        counted = labels != IGNORED
        hidden, labels = hidden[counted], labels[counted]
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    differentiable = torch.is_grad_enabled() and (hidden.requires_grad or bool(trained))
    chunks = math.ceil(len(labels) / (chunk or chunk_size(vocab_size, hidden.device)))
    if differentiable:
        return _ChunkedCrossEntropy.apply(head, kernel, labels, chunks, hidden, *trained)
    parts = zip(hidden.tensor_split(chunks or 1), labels.tensor_split(chunks or 1), strict=True)
    losses = (cross_entropy(wide(head(x)), y, ignore_index=IGNORED, reduction="sum") for x, y in parts)
    return torch.stack([*losses]).sum() / (labels != IGNORED).sum()


def chunk_size(vocab_size: int, device: torch.device) -> int:
    """Return the number of tokens whose logits have at most `LARGEST` elements. It is at least one."""
    tokens = LARGEST[device.type] // vocab_size
    return max(1, tokens // MULTIPLE * MULTIPLE or tokens)


class Kernel:
    """Turns logits into a loss and a gradient. Compiling replaces its ``forward``, as it does that of a block."""

    def forward(
        self, logits: Float[Tensor, "tokens vocab"], labels: Int64[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens vocab"]]:
        """Return the sum of the losses, in at least float32, and its gradient by the logits, in their type."""
        counted = labels != IGNORED
        targets = labels.where(counted, 0)[:, None]
        logs = wide(logits).log_softmax(-1)
        loss = -logs.gather(-1, targets).squeeze(-1).where(counted, 0).sum()
        gradient = logs.exp_().scatter_add_(-1, targets, -torch.ones_like(targets, dtype=logs.dtype))
        return loss, torch.mul(gradient, counted[:, None], out=torch.empty_like(logits))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Saves the gradients of the sum of the losses: first by the hidden states, then by the head's parameters."""

    @staticmethod
    @torch.compiler.disable  # it differentiates in its forward pass
    def forward(  # noqa: PLR0917 - autograd passes them by position
        ctx: FunctionCtx,
        head: Callable[[Tensor], Tensor],
        kernel: Kernel,
        labels: Tensor,
        chunks: int,
        hidden: Tensor,
        *trained: Tensor,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        by_hidden: list[Tensor] = []
        by_trained: list[Tensor] = []
        for x, y in zip(hidden.tensor_split(chunks or 1), labels.tensor_split(chunks or 1), strict=True):
            inputs = [x.detach().requires_grad_(), *trained]
            with torch.enable_grad(), uncached_autocast(hidden.device.type):
                logits = head(inputs[0])
            loss, gradient = kernel.forward(logits.detach(), y)
            total += loss
            by_x, *parts = torch.autograd.grad(logits, inputs, gradient)
            by_hidden.append(by_x)
            if by_trained:
                torch._foreach_add_(by_trained, parts)
            else:
                by_trained = parts
            del logits, gradient  # before the next chunk's are made
        count = (labels != IGNORED).sum()
        ctx.save_for_backward(count, torch.cat(by_hidden), *by_trained)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dloss: Tensor):  # pyrefly: ignore[bad-override]
        count, *gradients = ctx.saved_tensors  # pyrefly: ignore[missing-attribute]
        factor = dloss / count
        return None, None, None, None, *(gradient * factor for gradient in gradients)


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def uncached_autocast(device_type: str) -> torch.autocast:
    """Return the present autocast without its cache of cast weights, which would connect the chunks' graphs."""
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )
