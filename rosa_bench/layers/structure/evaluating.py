"""Training mode and evaluation mode of a model's modules."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside the block, and every module back into its own mode afterwards.

    Without dropout no random generator moves on.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def take_modes(model: nn.Module, known: Collection[nn.Module]) -> None:
    """Put each module inside the model that is not ``known`` into the mode of the one that holds it."""
    for child in model.children():
        if child not in known:
            child.training = model.training
        take_modes(child, known)
