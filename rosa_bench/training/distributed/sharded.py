"""Shard a model's weights over processes with FSDP2: each GPU holds a part, and gathers a block when a pass needs it.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277, by PyTorch's
`fully_shard`. Gradients and the optimizer's state are sharded too. What is frozen, such as the residuals of low-rank
layers, is sharded with its layer.

While it trains, a parameter is a DTensor: in-place operations act on each process's part. `whole` and `put` are the
ways in and out. Before and after, the model is plain and whole in every process, so loading, merging, saving and the
evaluations after training need no code of their own. It must therefore fit on one device without gradients, optimizer
state and activations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rosa_bench.layers.adapter import adapters
from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.models.logits.chunked_loss import Output
from rosa_bench.system import processes
from rosa_bench.system.tensors import whole


@contextmanager
def sharded(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block, shard the transformer blocks, and the rest of the model, over all processes.

    If the block ends without an error, the model is whole again, in the same parameters. Raises `UserError` if the
    model has no stack of blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blocks = transformer_blocks(model)
    let_hooks_see_losses()
    mesh = init_device_mesh(device.type, (processes.count(),))
    move_residuals(model, to_parameters=True)
    before = Before(model)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # or an evaluation would leave its parameters gathered
    before.release()
    yield
    before.restore()
    move_residuals(model, to_parameters=False)


def move_residuals(model: nn.Module, *, to_parameters: bool) -> None:
    """Turn the large buffers of adapters into frozen parameters, which FSDP shards, or back into buffers."""
    for _, layer in adapters(model):
        for name in layer.large:
            tensor = getattr(layer, name)
            delattr(layer, name)
            if to_parameters:
                layer.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            else:
                layer.register_buffer(name, tensor.detach())
        layer.frozen = layer.large if to_parameters else ()


class Before:
    """A model as it was before it was sharded: the types, hooks and parameters of its modules."""

    def __init__(self, model: nn.Module):
        self.modules = {module: (type(module), copied(vars(module))) for module in model.modules()}

    def release(self) -> None:
        """Free the memory of the whole parameters. Their parts are stored elsewhere."""
        for _, attributes in self.modules.values():
            for parameter in attributes["_parameters"].values():
                if parameter is not None:
                    parameter.data = parameter.new_empty(0)

    @torch.no_grad()
    def restore(self) -> None:
        """Fill the parameters with their whole values now, and put everything back."""
        filled = set[nn.Parameter]()
        for module, (_, attributes) in self.modules.items():
            for name, parameter in attributes["_parameters"].items():
                if parameter is not None and parameter not in filled:
                    parameter.data = whole(module._parameters[name]).detach()  # pyrefly: ignore[bad-argument-type]
                    parameter.grad = None
                    filled.add(parameter)
        for module, (kind, attributes) in self.modules.items():
            module.__class__ = kind
            attributes["training"] = module.training
            vars(module).clear()
            vars(module).update(attributes)


def copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy a module's attributes, and its tables of parameters, buffers and hooks, but nothing in them."""
    return {name: it.copy() if isinstance(it, dict) else it for name, it in attributes.items()}


def let_hooks_see_losses() -> None:
    """Let FSDP find the tensors in the output of a loss in chunks: it gathers weights again for the backward pass."""
    from torch.utils import _pytree

    if Output not in _pytree.SUPPORTED_NODES:
        _pytree.register_pytree_node(
            Output,
            lambda output: ([output.loss, output.hidden], output.head),
            lambda tensors, head: Output(tensors[0], head, tensors[1]),  # pyrefly: ignore[bad-index]
            serialized_type_name="rosa_bench.models.logits.chunked_loss.Output",
        )
