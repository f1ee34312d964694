"""The blocks of a transformer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import nn

from rosa_bench.system.errors import UserError


@runtime_checkable
class HasForward(Protocol):
    """A module, or another object with a replaceable method ``forward``."""

    forward: Callable[..., Any]


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the model's main stack, from input to output. Raises `UserError` if it has none."""
    blocks = stack_of_blocks(model)
    if not blocks:
        raise UserError("this model has no stack of blocks; choose a transformer with model=, or another method")
    return blocks


def stack_of_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the model's main stack: the list of same-type modules with the most parameters, if any."""
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
        if any(True for _ in module[0].children())  # a perceptron's layers are no blocks
    ]
    return list(max(lists, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters()), default=()))


@contextmanager
def forward_replaced(blocks: Sequence[HasForward], make: Callable[[int, Callable[..., Any]], Any]) -> Iterator[None]:
    """Within the block, the forward pass of each of ``blocks`` is ``make(number, its forward pass before)``."""
    earlier = [vars(block).get("forward") for block in blocks]
    for number, block in enumerate(blocks):
        block.forward = make(number, block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, earlier, strict=True):
            if forward is None:
                del block.forward  # uncovers the class's own method
            else:
                block.forward = forward
