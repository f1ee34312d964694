"""Compile the blocks of a transformer with TorchInductor: fewer and larger kernels, after a wait of some seconds.

Blocks of one type share their compiled code. So the number of compilations depends on the kinds of batches, not on the
number of layers: one with padding, one without, and a general one of each when a second shape appears.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.layers.structure.blocks import forward_replaced, stack_of_blocks
from rosa_bench.system.errors import UserError

# CUDA graphs are left to `rosa_bench.training.cuda_graphs`, which captures the optimizer's step too.
MODES = {"default": None, "max": "max-autotune-no-cudagraphs"}
WARM_UPS = 3  # runs before everything is compiled: the first may leave state behind that triggers recompilation
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")
MOST_KINDS = 64  # compiled forms of one block; beyond PyTorch's 8, a further kind would silently run uncompiled


def check_compiler(choice: str) -> None:
    """Raise `UserError` if models are to be compiled and no C++ compiler is installed."""
    chosen = filter(None, (os.environ.get("CXX"), os.environ.get("CC")))
    if choice != "none" and not any(map(shutil.which, (*chosen, *COMPILERS))):
        raise UserError(f"compile={choice} needs a C++ compiler, but none was found; install one, or use compile=none")


@contextmanager
def compiled(model: nn.Module, choice: str, *, backend: str = "inductor") -> Iterator[None]:
    """Within the block, compile training passes through each transformer block when they are first used.

    A model without transformer blocks is compiled as a whole. Evaluation runs uncompiled, so its scores are those of
    ``compile=none`` and it needs no compilations of its own.

    choice  ``none``, ``default``, or ``max``, which times candidate kernels and takes several times longer to compile
    """
    if choice == "none":
        yield
        return
    regions, kernel = stack_of_blocks(model) or [model], getattr(model, "loss_kernel", None)

    def make(number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        fast = torch.compile(forward, mode=MODES[choice], backend=backend)
        return partial(_forward, regions[number], forward, fast)

    def plain(_: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(forward, mode=MODES[choice], backend=backend)

    with (
        warnings.catch_warnings(),
        torch._dynamo.config.patch(recompile_limit=MOST_KINDS),
        forward_replaced(regions, make),
        forward_replaced([kernel] if kernel else [], plain),  # pyrefly: ignore[bad-argument-type]
    ):
        # This warning concerns weights formed for one pass, whose gradients are never read.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield


def _forward(
    region: nn.Module, eager: Callable[..., Any], fast: Callable[..., Any], *arguments: Any, **options: Any
) -> Any:
    """Run a region of the model: compiled in training, else as it is."""
    if not (region.training and torch.is_grad_enabled()):
        return eager(*arguments, **options)
    from rosa_bench.models.caches import NoCache  # needs transformers, which a plan of completed runs does not

    # A cache is addressed by the layer's number, which would tie the compiled code to one layer.
    inputs = [None if isinstance(it, NoCache) else it for it in arguments]
    named = {name: None if isinstance(it, NoCache) else it for name, it in options.items()}
    return fast(*(differentiable(it, region) for it in inputs[:1]), *inputs[1:], **named)


def differentiable(x: Any, region: nn.Module) -> Any:
    """Return ``x`` with a gradient if the region trains, so that the first block needs no compilation of its own."""
    if not isinstance(x, Tensor) or x.requires_grad or not x.is_floating_point():
        return x
    trains = any(parameter.requires_grad for parameter in region.parameters())
    return x.detach().requires_grad_() if trains else x
