"""Read tensors from safetensors files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        with _opened(path) as file:
            own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no __iter__
        if twice := sorted(found.keys() & own.keys()):
            raise UserError(f"{path} holds {twice[0]}, as does another file of these weights; keep only one")
        found |= own
    return found


def names_in(*paths: Path) -> frozenset[str]:
    """Return the names of the tensors in all files, without reading the tensors. Raises `UserError` as above."""
    found: set[str] = set()
    for path in paths:
        with _opened(path) as file:
            found.update(file.keys())
    return frozenset(found)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:  # checks the header, the offsets and the sizes
            yield file
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        # An unknown type is an AttributeError; an empty file is a ValueError or an OSError, by platform.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is damaged: {reason}; use another copy of the weights") from error
