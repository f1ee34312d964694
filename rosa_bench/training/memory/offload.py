"""Keep a model's weights in the CPU's memory, and load them block by block when a pass needs them.

Only two blocks have their weights on the GPU: the one that computes, and the next one, which is loaded meanwhile.
Passes just read frozen weights. Between two steps, a draw reads and writes those that it changes, one after another, by
`rosa_bench.system.tensors`. A weight that trains is changed in the CPU's memory: its gradient moves there as soon as
the backward pass has computed it, and the optimizer keeps its moments and makes its step there. What a method inserts
trains on the GPU, for it is small.

It is used with `rosa_bench.training.memory.recompute`: without it, autograd would hold every block's weights until the
backward pass.

FSDP2's CPU offload does the same, but replaces parameters with distributed tensors. Methods, checkpoints and merging
would then no longer see the tensors that they change in place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.layers.adapter import adapters
from rosa_bench.layers.structure.blocks import forward_replaced, transformer_blocks
from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import keep, keep_no_longer


class Loader:
    """Moves the movable weights of two blocks at a time to the ``device``.

    Between an optimizer's steps no weight that trains is on the device, so the optimizer changes the stored one.

    stored     each movable tensor's values in the CPU's memory
    gradients  those of weights that train now, once there is one, in the CPU's memory
    current    the number of the block that was asked for last, or None
    direction  1 while a pass goes up through the blocks, -1 while one goes down
    """

    def __init__(self, blocks: list[list[Tensor]], device: torch.device):
        self.blocks, self.device = blocks, device
        self.stored = {it: _in_host_memory(it, device) for tensors in blocks for it in tensors}
        self.gradients: dict[Tensor, Tensor] = {}
        self.current: int | None = None
        self.direction = 1
        self._loaded = set[int]()
        self._unfinished = set[Tensor]()  # on the device, with a gradient of earlier parts of the batch
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        for tensor, stored in self.stored.items():
            keep(tensor, stored)
            self._evict(tensor)

    @torch.inference_mode(mode=False)
    def load(self, number: int) -> None:
        """Bring one block to the device, begin to load the next one, and drop the others.

        What an evaluation has loaded is written and trained like anything else.
        """
        for other in self._loaded - {number}:
            for tensor in self.blocks[other]:
                self._evict(tensor)
        self._finish_copies()
        self._fetch(number)
        self._loaded = {number}
        following = self._following(number)
        if 0 <= following < len(self.blocks):
            with self._beside_computing():
                self._fetch(following)
            self._loaded.add(following)

    def _following(self, number: int) -> int:
        """Return the number of the block that is needed after this one.

        A pass goes on in its direction. One that begins with the block that ended the last pass goes back.
        """
        if self.current == number:
            self.direction = -self.direction
        elif self.current is not None:
            self.direction = 1 if number > self.current else -1
        self.current = number
        return number + self.direction

    def is_loaded(self, tensor: Tensor) -> bool:
        """Return whether a movable tensor's values are on the device."""
        return tensor.data_ptr() != self.stored[tensor].data_ptr()

    def load_all(self) -> None:
        """Bring every block to the device, with its gradients, to stay there."""
        self._finish_copies()
        for number in range(len(self.blocks)):
            self._fetch(number)
        for tensor in self.stored:
            keep_no_longer(tensor)
        for tensor in self._unfinished:
            tensor.grad = self.gradients[tensor].to(self.device)

    def keep_gradient(self, weight: Tensor) -> None:
        """Move a weight's gradient to the CPU's memory once a backward pass has computed it. Drop the loaded weight."""
        computed = weight.grad
        assert computed is not None
        if weight not in self.gradients:
            self.gradients[weight] = _in_host_memory(computed, self.device)
        elif weight in self._unfinished:
            self.gradients[weight] += computed.to("cpu")
        else:
            self.gradients[weight].copy_(computed)
        self._unfinished.add(weight)
        self._evict(weight)

    def _fetch(self, number: int) -> None:
        for tensor in self.blocks[number]:
            if self.is_loaded(tensor):
                continue
            if tensor.grad is not None:  # autograd could not add to one on another device
                self._unfinished.add(tensor)
                tensor.grad = None
            tensor.data = self.stored[tensor].to(self.device, non_blocking=True, copy=True)

    def _evict(self, tensor: Tensor) -> None:
        tensor.data = self.stored[tensor]
        if tensor in self._unfinished:
            tensor.grad = self.gradients[tensor]
            self._unfinished.remove(tensor)
        elif not tensor.requires_grad:  # no longer, under a method whose blocks take turns
            self.gradients.pop(tensor, None)

    @contextmanager
    def _beside_computing(self) -> Iterator[None]:
        """Copy while the GPU computes what is queued from now on.

        The copies come after what was queued before, which may still read the memory that they are written to.
        """
        if self._copies is None:
            yield
            return
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            yield

    def _finish_copies(self) -> None:
        """Let what is queued from now on wait for the weights that were loaded beside computing."""
        if self._copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copies)


def movable(model: nn.Module, method: Method) -> list[list[Tensor]]:
    """Return, for each block, the weights that do not train, and those that do if the method allows it.

    Vectors are left out, because they are small. So is what the method changes between steps, except the large tensors
    of adapters, which are changed wherever they are. Raises `UserError` if nothing is left.
    """
    trained = set(method.trainable(model))
    large = {tensor for _, layer in adapters(model) for tensor in layer.large_tensors()}
    # By storage, so that a view of a changed tensor counts as changed.
    changed = {tensor.untyped_storage().data_ptr() for tensor in method.state(model).values() if tensor not in large}

    def moves(tensor: Tensor) -> bool:
        if tensor in trained:
            return method.offloadable
        return tensor.untyped_storage().data_ptr() not in changed

    found = [
        [tensor for tensor in (*block.parameters(), *block.buffers()) if tensor.ndim > 1 and moves(tensor)]
        for block in transformer_blocks(model)
    ]
    if not any(found):
        raise UserError(
            f"method={method.name} changes every weight of the model's blocks on the GPU, so offload=layers has "
            "nothing to move; use offload=null, or a method that leaves weights frozen, such as lora"
        )
    return found


@contextmanager
def offloaded(model: nn.Module, method: Method, device: torch.device) -> Iterator[Loader]:
    """Within the block, keep the movable weights of all transformer blocks but two in the CPU's memory.

    Make the optimizer inside the block. Afterwards all are on the device again. Raises `UserError` if nothing can be
    moved.
    """
    loader = Loader(movable(model, method), device)
    hooks = [_after_gradient(it, loader.keep_gradient) for it in method.trainable(model) if it in loader.stored]
    try:
        with (
            _no_copies_by_autocast(),
            forward_replaced(
                transformer_blocks(model), lambda number, forward: partial(_loaded, loader, number, forward)
            ),
        ):
            yield loader
    finally:
        for hook in hooks:
            hook.remove()
        loader.load_all()


def _loaded(loader: Loader, number: int, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    loader.load(number)
    return forward(*arguments, **options)


def _after_gradient(weight: nn.Parameter, hook: Callable[[Tensor], None]) -> Any:
    """Call ``hook`` after each gradient of a weight, which may be frozen at the moment. Returns a handle."""
    trains = weight.requires_grad
    handle = weight.requires_grad_().register_post_accumulate_grad_hook(hook)
    weight.requires_grad_(trains)
    return handle


@contextmanager
def _no_copies_by_autocast() -> Iterator[None]:
    """Keep autocast from holding a copy of every weight that trains until the forward pass ends."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _in_host_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy in the CPU's memory, pinned if a GPU will read it."""
    stored = tensor.detach().to("cpu", copy=True)
    return stored.pin_memory() if device.type == "cuda" else stored
