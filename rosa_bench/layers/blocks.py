"""The blocks of a transformer."""

from torch import nn

from rosa_bench.system.errors import UserError


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the model's main stack, from input to output.

    The main stack is the list of same-type modules with the most parameters. Raises `UserError` for a model without
    such a list.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        raise UserError("this model has no stack of blocks; choose a transformer with model=, or another method")
    return list(max(lists, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters())))
