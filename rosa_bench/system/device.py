"""Which device a run uses, and in which precision it multiplies."""

import itertools
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

from rosa_bench.system.errors import UserError

Autocast = Callable[[], AbstractContextManager]


def resolve_device(name: str, *, own_gpu: bool = False) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here. Raises `UserError` if there is none.

    With ``own_gpu`` ``auto`` is the GPU that fewest other processes of ours hold, and this process then holds it.
    """
    if name == "auto":
        gpu = f"cuda:{_own_gpu()}" if own_gpu and torch.cuda.is_available() else "cuda"
        name = gpu if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = name.partition(":")[2] or "0"
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"device={name} is not on this machine, which has {count} CUDA devices; use device=auto")
        return torch.device("cuda", int(number))
    return torch.device(name)


@cache  # a process keeps its GPU
def _own_gpu() -> int:
    """The GPU that fewest other processes of ours hold, held by a lock until this process ends.

    A job's number would not do: jobs end out of order, and two would meet on one GPU while another is idle. The system
    takes a lock back when its process ends, however it ends.
    """
    folder = Path(tempfile.gettempdir()) / f"rosa-bench-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    devices = torch.cuda.device_count()
    # Each GPU's first lock, then each GPU's second one, ...
    return next(n % devices for n in itertools.count() if _is_locked(folder / f"{n % devices}-{n // devices}"))


def _is_locked(path: Path) -> bool:
    """Lock a file until this process ends; whether that could be done, no other having locked it."""
    import fcntl

    file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True


def resolve_precision(name: str, device: torch.device) -> str:
    """What ``auto`` means on a device: bfloat16 on a GPU that has it, float32 elsewhere."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def has_room(device: torch.device, size_bytes: int) -> bool:
    """Whether data of this size may be held on ``device``: on a GPU an eighth of what is free, and no more."""
    return device.type != "cuda" or size_bytes <= torch.cuda.mem_get_info(device)[0] / 8


@cache  # the same one again for the same arguments
def autocast(precision: str, device: torch.device) -> Autocast:
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

    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
