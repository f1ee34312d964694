"""Tensors that may be elsewhere: sharded over processes, as FSDP's DTensors are, in the CPU's memory, or in files.

`whole` and `put` are the ways in and out between two steps. A plain tensor passes through unchanged.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rosa_bench.system import processes
from rosa_bench.system.errors import UserError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. If that is not permitted, raise the system's `OSError`; safetensors calls it missing."""
    with path.open("rb"):
        return load_file(path)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process holds only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor. If it is sharded, all processes must call this together.

    One that is kept in the CPU's memory is returned as it is there, whatever a pass has loaded.
    """
    return tensor.full_tensor() if is_sharded(tensor) else _stored(tensor)  # pyrefly: ignore[missing-attribute]


def keep(tensor: Tensor, stored: Tensor) -> None:
    """Let ``stored``, in the CPU's memory, be where the values of a tensor are kept, wherever it is itself."""
    tensor.stored = stored  # pyrefly: ignore[missing-attribute]


def keep_no_longer(tensor: Tensor) -> None:
    """Let a tensor keep its values itself again."""
    del tensor.stored  # pyrefly: ignore[missing-attribute]


def _stored(tensor: Tensor) -> Tensor:
    return getattr(tensor, "stored", tensor)


def collected(tensor: Tensor) -> Tensor:
    """Return a tensor as a checkpoint stores it: if it is sharded, the whole on the CPU, and only in the first process.

    The others must call this too, and get an empty tensor: not even the first could hold all of them on its GPU.
    """
    if not is_sharded(tensor):
        return tensor
    full = whole(tensor)
    return full.cpu() if processes.is_first() else full.new_empty(0)


def sharded_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, sharded as ``model`` is. Nothing is exchanged."""
    if not is_sharded(model) or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def check_finite(
    tensors: Mapping[str, Tensor], called: Path | str, remedy: str = "use a file that was saved earlier"
) -> None:
    """Raise `UserError` if one of the tensors contains NaN or Inf. ``called`` names their file in the message."""
    for name, tensor in tensors.items():
        is_float8 = tensor.is_floating_point() and tensor.itemsize == 1  # for which torch has no `isfinite`
        if not (tensor.float() if is_float8 else tensor).isfinite().all():
            raise UserError(f"{called} contains NaN or Inf in {name}; {remedy}")


@torch.no_grad()
def put(tensor: Tensor, values: Tensor) -> None:
    """Write whole values into a tensor, in place. If it is sharded, each process writes its part.

    One that is kept in the CPU's memory is written there, and what a pass has loaded of it is written too.
    """
    if is_sharded(tensor):
        values = sharded_like(values.to(tensor.device), tensor)
    tensor.copy_(values)
    stored = _stored(tensor)
    if stored is not tensor and stored.data_ptr() != tensor.data_ptr():
        stored.copy_(values)
