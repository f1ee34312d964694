"""Models compiled by TorchInductor: fewer and larger kernels, after a wait of half a minute or more."""

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
WARM_UPS = 3  # runs after which nothing is compiled anew: what the first one leaves behind may be compiled in
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


def check_compiler(choice: str) -> None:
    """Raise `UserError` where models are to be compiled and there is no compiler of C++ to do so with."""
    chosen = filter(None, (os.environ.get("CXX"), os.environ.get("CC")))
    if choice != "none" and not any(map(shutil.which, (*chosen, *COMPILERS))):
        raise UserError(f"compile={choice} needs a C++ compiler, and there is none; install one, or use compile=none")


@contextmanager
def compiled(model: nn.Module, choice: str, *, backend: str = "inductor") -> Iterator[None]:
    """Inside the block the model's forward pass, and with it the backward one, is compiled when it is first used.

    choice  ``none``, ``default``, or ``max``: with kernels chosen by trying, for which the wait is several times longer
    """
    if choice == "none":
        yield
        return
    model.forward = torch.compile(model.forward, mode=MODES[choice], backend=backend)
    try:
        with warnings.catch_warnings():
            # Said of weights that were formed for this pass, whose gradients nobody asks for.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        del model.forward  # the class's own is there again
