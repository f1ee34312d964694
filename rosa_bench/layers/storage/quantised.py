"""Linear layers whose frozen weight is stored in 8 or 4 bits by bitsandbytes, and formed again whenever it is read.

``int8``  one scale for each row, as in Dettmers et al., "LLM.int8()", arXiv 2208.07339. We differ in that the inputs
          are not quantised: products are of the type of the run.
``nf4``   blocks of 64 numbers with a float32 scale each, 4.5 bits in all, as in Dettmers et al., "QLoRA: Efficient
          Finetuning of Quantized LLMs", arXiv 2305.14314. We differ in that the scales are not quantised again.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from rosa_bench.layers.low_rank import product_dtype
from rosa_bench.system.tensors import whole

KINDS = ("int8", "nf4")
BLOCK = 64  # numbers of an nf4 weight that share a scale
LARGEST_CODE = 127  # of int8


class Quantised(nn.Module):
    """A frozen weight, (out, in), as integer ``codes`` and float32 ``scales``."""

    def __init__(self, weight: Float[Tensor, "out in"], kind: str):
        super().__init__()
        import bitsandbytes.functional as library  # pyrefly: ignore[missing-import] # optional

        self.kind, self.shape = kind, weight.shape
        weight = weight.detach().contiguous()
        if kind == "nf4":
            codes, state = library.quantize_4bit(weight, blocksize=BLOCK, quant_type=kind)
            scales = state.absmax
        else:  # its quantiser is for float16
            codes, largest, _ = library.int8_vectorwise_quant(weight.half())
            scales = largest.unsqueeze(1) * (1 / LARGEST_CODE)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)

    def dequantised(self, device: torch.device | None = None) -> Float[Tensor, "out in"]:
        """Return the weight that the codes stand for, as a new float32 tensor, on a device if one is given."""
        codes, scales = (tensor if device is None else whole(tensor).to(device) for tensor in (self.codes, self.scales))
        return dequantise(codes, scales, self.shape, torch.float32)


def dequantise(codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """Form a weight from its codes. In bfloat16 it is the float32 one rounded."""
    if codes.dtype == torch.int8:
        return (codes * scales).to(dtype)
    return torch.ops.bitsandbytes.dequantize_4bit(codes, scales, BLOCK, "nf4", list(shape), dtype)


class QuantisedLinear(nn.Linear):
    """A frozen linear layer over such a weight. ``weight`` is formed anew whenever it is read.

    wide_type  type of the layer with a float32 weight that this one replaces
    """

    def __init__(self, stored: Quantised, bias: nn.Parameter | None, wide_type: type):
        nn.Module.__init__(self)  # without a weight of its own
        self.out_features, self.in_features = stored.shape
        self.stored, self.wide_type = stored, wide_type
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # pyrefly: ignore[bad-override]
        return self.stored.dequantised()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return quantised_linear(input, self.stored, self.bias)


def quantised_linear(
    x: Float[Tensor, "*batch in"],
    stored: Quantised,
    bias: Float[Tensor, " out"] | None,
    a: Float[Tensor, "out k"] | None = None,
    b: Float[Tensor, "k in"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """Compute ``x (Q + a b)^T + bias``. Gradients flow to x and bias. The backward pass forms Q again."""
    y = _QuantisedLinear.apply(x.reshape(-1, x.shape[-1]), stored.codes, stored.scales, bias, a, b, stored.shape)
    return y.view(*x.shape[:-1], y.shape[-1])  # here, because a view made by the function may not be changed in place


class _QuantisedLinear(torch.autograd.Function):
    """Saves the codes and the factors as they are stored, and neither the formed weight nor x."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by position
        ctx: FunctionCtx,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        a: Tensor | None,
        b: Tensor | None,
        shape: torch.Size,
    ) -> Tensor:
        dtype = product_dtype(x.device, x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(dtype)
            y = functional.linear(x, dequantise(codes, scales, shape, dtype), None if bias is None else bias.to(dtype))
            if a is not None and b is not None:
                y = y + x @ b.to(dtype).mT @ a.to(dtype).mT
        ctx.save_for_backward(codes, scales, a, b)  # pyrefly: ignore[bad-argument-type]
        ctx.shape = shape  # pyrefly: ignore[missing-attribute]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor):  # pyrefly: ignore[bad-override]
        codes, scales, a, b = ctx.saved_tensors  # pyrefly: ignore[missing-attribute]
        need_x, _, _, need_bias, *_ = ctx.needs_input_grad  # pyrefly: ignore[missing-attribute]
        dx = dbias = None
        with torch.autocast(dy.device.type, enabled=False):
            if need_x:
                dx = dy @ dequantise(codes, scales, ctx.shape, dy.dtype)  # pyrefly: ignore[missing-attribute]
                if a is not None:
                    dx = dx + dy @ a.to(dy.dtype) @ b.to(dy.dtype)
            if need_bias:
                wide = torch.promote_types(dy.dtype, torch.float32)
                dbias = dy.sum(0, dtype=wide)
        return dx, None, None, dbias, None, None, None
