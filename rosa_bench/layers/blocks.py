"""The blocks that a transformer is a stack of."""

from torch import nn

from rosa_bench.system.errors import UserError


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the model's main stack, from the input to the output.

    The main stack is the list of modules of one type that holds most of the model's parameters. Raises `UserError` for
    a model that has no such list.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        raise UserError("this model is no stack of blocks; choose a transformer with model=, or another method")
    return list(max(lists, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters())))
