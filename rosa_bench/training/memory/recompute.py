"""Gradient checkpointing: keep only the inputs of transformer blocks, and compute the rest again for the backward pass.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174, by PyTorch's non-reentrant
checkpoints. Unlike the library's own switch, this works with every stack of blocks, MPNet's included. Dropout draws
the same numbers again, so gradients are those of an ordinary step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rosa_bench.layers.structure.blocks import forward_replaced, transformer_blocks


@contextmanager
def recomputed(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within the block, recompute the activations of every transformer block if ``wanted``.

    A pass without gradients is unchanged. The model makes no cache of keys and values meanwhile, because the second
    computation would extend it again. Raises `UserError` if the model has no stack of blocks.
    """
    if not wanted:
        yield
        return
    blocks, config = transformer_blocks(model), getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached:
        config.use_cache = False  # pyrefly: ignore[bad-argument-type, missing-attribute]
    try:
        with forward_replaced(blocks, lambda _number, forward: partial(_checkpointed, forward)):
            yield
    finally:
        if cached:
            config.use_cache = cached  # pyrefly: ignore[missing-attribute]


def _checkpointed(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *arguments, use_reentrant=False, **options)
    return forward(*arguments, **options)
