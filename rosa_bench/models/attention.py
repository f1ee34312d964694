"""Attention whose mask is made once a pass, without looking at it, in the form that the fast kernels take.

transformers' own mask for scaled dot-product attention asks the GPU whether anything is padded at all, and so makes the
host wait in every pass. While a CUDA graph is captured it cannot ask, and version 5.17 made a mask repeated from
key to key without memory of its own, for which only the slowest kernel is left: at 32 x 512 tokens three times the time
and memory. And it is a mask of truth values, which every layer turns into numbers again. Here a batch without padding
has no mask, as it comes from `rosa_bench.data.batches`, and any other one is turned into numbers once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rosa_bench.layers.low_rank import product_dtype

NAME = "rosa_bench_sdpa"
MASK_ALONE = "rosa_bench_mask"


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let a model have our mask, if it attends by scaled dot-product attention or, as MPNet, only in a way of its own.

    A model that was told to attend in another way keeps its mask. Biases of positions are made where the model is.
    """
    chosen = model.config._attn_implementation
    if chosen == "sdpa":
        AttentionInterface.register(NAME, sdpa_attention_forward)
        AttentionMaskInterface.register(NAME, bias_mask)
        model.set_attn_implementation(NAME)
    elif chosen == "eager" and not model._can_set_attn_implementation():
        # Its layers never ask for an implementation; the mask alone goes by the name.
        AttentionMaskInterface.register(MASK_ALONE, bias_mask)
        model.config._attn_implementation = MASK_ALONE
    for module in model.modules():
        if hasattr(module, "compute_position_bias"):  # a method of its own, so that a copy of the model has its own too
            module.compute_position_bias = MethodType(position_bias_in_place, module)  # pyright: ignore[reportArgumentType]


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Inside the block attention is computed by any kernel but cuDNN's, whose gradients are NaN for some batches.

    PyTorch 2.11 to 2.13 prefers that one on Hopper GPUs. Its backward pass overflows where there is a mask, the length
    is 64 more than a multiple of 128, and all that a query may see scores below -88 (PyTorch's issue 196678): at a high
    learning rate a single such batch ends the run.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def position_bias_in_place(module: nn.Module, *args: Any, **options: Any) -> Tensor:
    """The module's bias of positions, made on its own device from the start.

    MPNet's, in transformers 5.17, numbers the positions on the CPU and brings them over in every pass: the host waits.
    """
    with next(module.parameters()).device:
        return type(module).compute_position_bias(module, *args, **options)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


def bias_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """What is added to the scores, (batch, 1, queries, keys): 0, or the least number there is where a key is hidden.

    ``attention_mask`` (batch, keys): 1, or 0 where there is padding; none where there is none. Other arguments as of
    transformers' ``sdpa_mask``, which makes the mask of truth values where it is not the same for every query.
    """
    # Whether every query sees every key that is no padding: no one before the other, and no window.
    plain = options.get("allow_is_bidirectional_skip") and options.get("local_size") is None
    if attention_mask is None and plain:
        return None
    queries, keys = options["q_length"], options["kv_length"]
    attention_mask = None if attention_mask is None else attention_mask.bool()
    if attention_mask is not None and plain and attention_mask.shape[-1] == keys:
        seen = attention_mask[:, None, None]  # (batch, 1, 1, keys): the same for every query
    else:
        options["allow_is_bidirectional_skip"] = False
        options["allow_is_causal_skip"] = options.get("allow_is_causal_skip", True) and attention_mask is None
        seen = sdpa_mask(attention_mask=attention_mask, **options)
    if seen is None:
        return None
    dtype = product_dtype(seen.device, options.get("dtype", torch.float32))
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return bias.expand(-1, -1, queries, -1)
