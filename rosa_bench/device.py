"""Which device a run uses, and in which precision it multiplies."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from rosa_bench.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here. Raises `UserError` if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = name.partition(":")[2] or "0"
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"device={name} is not on this machine, which has {count} CUDA devices; use device=auto")
        return torch.device("cuda", int(number))
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """What ``auto`` means on a device: bfloat16 on a GPU that has it, float32 elsewhere."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """A context for forward passes: weights stay float32, matrix products are made in ``precision``."""
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=getattr(torch, precision))


def describe(device: torch.device) -> dict[str, str | int]:
    """The device as a record names it."""
    if device.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"type": "cpu", "name": _processor(), "threads": torch.get_num_threads()}


def _processor() -> str:
    import platform
    from pathlib import Path

    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
