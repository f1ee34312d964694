"""Build the attention mask once per forward pass, without host synchronisation, in the form that fast kernels need.

The mask that transformers builds for scaled dot-product attention has three drawbacks:

* It asks the GPU whether anything is padded, so the host waits in every pass.
* It cannot ask while a CUDA graph is captured. Version 5.17 then makes a mask that is expanded over the keys without
  memory of its own. Only the slowest kernel accepts that: three times the time and memory at 32 x 512 tokens.
* The mask is boolean, and every layer converts it to floats again.

Here a batch without padding has no mask, as `rosa_bench.data.batches` provides it. Other masks are converted once.
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
MASK_ONLY = "rosa_bench_mask"


def use_fast_attention(model: PreTrainedModel) -> None:
    """Make a model use our mask if it uses scaled dot-product attention or, like MPNet, only its own implementation.

    A model with another attention implementation keeps its mask. Position biases are computed on the model's device.
    """
    implementation = model.config._attn_implementation
    if implementation == "sdpa":
        AttentionInterface.register(NAME, sdpa_attention_forward)
        AttentionMaskInterface.register(NAME, bias_mask)
        model.set_attn_implementation(NAME)
    elif implementation == "eager" and not model._can_set_attn_implementation():
        # Its layers never look up an implementation; the name selects the mask only.
        AttentionMaskInterface.register(MASK_ONLY, whole_bias_mask)
        model.config._attn_implementation = MASK_ONLY
    for module in model.modules():
        if hasattr(module, "compute_position_bias"):  # bound to the module, so that a copy of the model gets its own
            module.compute_position_bias = MethodType(position_bias_in_place, module)  # pyrefly: ignore[bad-argument-type]


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Disable cuDNN's attention kernel inside the block, because its gradients are NaN for some batches.

    PyTorch 2.11 to 2.13 prefers that kernel on Hopper GPUs. Its backward pass overflows if there is a mask, the length
    is 64 more than a multiple of 128, and all visible scores of a query are below -88 (PyTorch issue 196678). At a high
    learning rate one such batch ends the run.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def position_bias_in_place(module: nn.Module, *args: Any, **options: Any) -> Tensor:
    """Compute the module's position bias on its own device.

    In transformers 5.17 MPNet creates the positions on the CPU and copies them in every pass, so the host waits.
    """
    with next(module.parameters()).device:
        return type(module).compute_position_bias(module, *args, **options)  # pyrefly: ignore[missing-attribute]


def whole_bias_mask(**options: Any) -> Tensor | None:
    """Return the bias as `bias_mask` does, for layers such as Bloom's that are causal by their mask alone."""
    options["allow_is_causal_skip"] = False
    return bias_mask(**options)


def bias_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Return the bias added to the scores, (batch, 1, queries, keys): 0, or the dtype's minimum for a hidden key.

    ``attention_mask`` is (batch, keys), 1 for tokens and 0 for padding, or None without padding. The other arguments
    are those of transformers' ``sdpa_mask``, which makes the boolean mask if it differs between queries.
    """
    # Whether every query sees every key except padding: neither causal nor windowed.
    plain = options.get("allow_is_bidirectional_skip") and options.get("local_size") is None
    if attention_mask is None and plain:
        return None
    queries, keys = options["q_length"], options["kv_length"]
    causal = options.get("allow_is_causal_skip", False) and options.get("local_size") is None
    if attention_mask is None and causal and queries == keys:
        return None  # the attention kernel itself is causal, also while a graph is captured
    attention_mask = None if attention_mask is None else attention_mask.bool()
    if attention_mask is not None and plain and attention_mask.shape[-1] == keys:
        visible = attention_mask[:, None, None]  # (batch, 1, 1, keys): the same for every query
    else:
        options["allow_is_bidirectional_skip"] = False
        options["allow_is_causal_skip"] = options.get("allow_is_causal_skip", True) and attention_mask is None
        visible = sdpa_mask(attention_mask=attention_mask, **options)
    if visible is None:
        return None
    dtype = product_dtype(visible.device, options.get("dtype", torch.float32))
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    bias = bias.masked_fill_(~visible, torch.finfo(dtype).min)
    return bias.expand(-1, -1, queries, -1)
