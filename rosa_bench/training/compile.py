"""Compile models with TorchInductor: fewer and larger kernels, after a wait of half a minute or more."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rosa_bench.system.errors import UserError

# CUDA graphs are left to `rosa_bench.training.cuda_graphs`, which captures the optimizer's step too.
MODES = {"default": None, "max": "max-autotune-no-cudagraphs"}
WARM_UPS = 3  # runs before everything is compiled: the first may leave state behind that triggers recompilation
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


def check_compiler(choice: str) -> None:
    """Raise `UserError` if models are to be compiled and no C++ compiler is installed."""
    chosen = filter(None, (os.environ.get("CXX"), os.environ.get("CC")))
    if choice != "none" and not any(map(shutil.which, (*chosen, *COMPILERS))):
        raise UserError(f"compile={choice} needs a C++ compiler, but none was found; install one, or use compile=none")


@contextmanager
def compiled(model: nn.Module, choice: str, *, backend: str = "inductor") -> Iterator[None]:
    """Within the block, compile the model's forward and backward passes when they are first used.

    choice  ``none``, ``default``, or ``max``, which times candidate kernels and takes several times longer to compile
    """
    if choice == "none":
        yield
        return
    model.forward = torch.compile(model.forward, mode=MODES[choice], backend=backend)
    try:
        with warnings.catch_warnings():
            # This warning concerns weights formed for one pass, whose gradients are never read.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        del model.forward  # uncovers the class's own method
