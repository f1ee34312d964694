"""Read tensors from safetensors files."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rosa_bench.system.errors import UserError

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_tensors(*paths: Path) -> dict[str, Tensor]:
    """Return the tensors of all files by name, mapped into memory.

    Raises `UserError`, naming the file, if one is truncated or damaged, or if two hold the same name.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:  # checks the header, the offsets and the sizes
                own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no __iter__
        except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
            # An unknown type is an AttributeError; an empty file is a ValueError or an OSError, by platform.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path} is damaged: {reason}; use another copy of the weights") from error
        if twice := sorted(found.keys() & own.keys()):
            raise UserError(f"{path} holds {twice[0]}, as does another file of these weights; keep only one")
        found |= own
    return found
