"""Keep frozen weights in the CPU's memory, and load them block by block when a pass needs them.

Only the block that computes has its frozen weights on the GPU. What trains, and whatever else the method changes, stays
there with its gradients and optimizer state. It is used with `rosa_bench.training.recompute`: without it, autograd
would hold every block's weights until the backward pass. Nothing is loaded ahead, so the GPU waits for each block.

FSDP2's CPU offload moves optimizer states too, but replaces parameters with distributed tensors. Methods, checkpoints
and merging would then no longer see the tensors that they change in place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.layers.blocks import forward_replaced, transformer_blocks
from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError


class Loader:
    """Moves the movable weights of one block at a time to the ``device``.

    resident  the number of the block whose weights are on the device, or None
    """

    def __init__(self, blocks: list[list[Tensor]], device: torch.device):
        self.blocks, self.device = blocks, device
        self.stored = [[_in_host_memory(tensor, device) for tensor in tensors] for tensors in blocks]
        self.resident: int | None = None
        for number in range(len(blocks)):
            self._evict(number)

    def load(self, number: int) -> None:
        """Bring one block to the device, and drop the one that was there."""
        if number == self.resident:
            return
        if self.resident is not None:
            self._evict(self.resident)
        self._fetch(number)
        self.resident = number

    def load_all(self) -> None:
        """Bring every block to the device."""
        for number in range(len(self.blocks)):
            if number != self.resident:
                self._fetch(number)

    def _fetch(self, number: int) -> None:
        for tensor, stored in zip(self.blocks[number], self.stored[number], strict=True):
            tensor.data = stored.to(self.device, non_blocking=True, copy=True)

    def _evict(self, number: int) -> None:
        for tensor, stored in zip(self.blocks[number], self.stored[number], strict=True):
            tensor.data = stored


def movable(model: nn.Module, method: Method) -> list[list[Tensor]]:
    """Return, for each block, the weights that the method never changes. Vectors are left out, because they are small.

    Raises `UserError` if there are none.
    """
    # By storage, so that a view of a changed tensor counts as changed.
    changed = {
        tensor.untyped_storage().data_ptr() for tensor in (*method.trainable(model), *method.state(model).values())
    }
    found = [
        [
            tensor
            for tensor in (*block.parameters(), *block.buffers())
            if tensor.ndim > 1 and tensor.untyped_storage().data_ptr() not in changed
        ]
        for block in transformer_blocks(model)
    ]
    if not any(found):
        raise UserError(
            f"method={method.name} changes every weight of the model's blocks, so offload=layers has nothing to move; "
            "use offload=null, or a method that leaves weights frozen, such as lora"
        )
    return found


@contextmanager
def offloaded(model: nn.Module, method: Method, device: torch.device) -> Iterator[Loader]:
    """Within the block, keep the frozen weights of all transformer blocks but one in the CPU's memory.

    Afterwards all are on the device again. Raises `UserError` if the method leaves nothing frozen.
    """
    loader = Loader(movable(model, method), device)
    try:
        with forward_replaced(
            transformer_blocks(model), lambda number, forward: partial(_loaded, loader, number, forward)
        ):
            yield loader
    finally:
        loader.load_all()


def _loaded(loader: Loader, number: int, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    loader.load(number)
    return forward(*arguments, **options)


def _in_host_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy in the CPU's memory, pinned if a GPU will read it."""
    stored = tensor.detach().to("cpu", copy=True)
    return stored.pin_memory() if device.type == "cuda" else stored
