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
    """Return the blocks of the model's main stack: the list of modules with the most parameters, if any.

    Blocks may differ in their type, as those of hybrid models do, and lie in lists within the list, as Funnel's do.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacks = [stack for one in lists if (stack := list(_items(one))) and all(map(_is_block, stack))]
    return max(stacks, key=lambda stack: sum(it.numel() for block in stack for it in block.parameters()), default=[])


def _items(modules: nn.ModuleList) -> Iterator[nn.Module]:
    """Yield the modules of a list, and of lists in it."""
    for module in modules:
        yield from _items(module) if isinstance(module, nn.ModuleList) else [module]


def _is_block(module: nn.Module) -> bool:
    """Return whether a module has parts: a perceptron's layers have none."""
    return any(True for _ in module.children())


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
