"""Choose the device of a run and the precision of its matrix products.

Torch is imported inside functions, so that a plan for a CPU does without it.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rosa_bench.system import processes
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    import torch

Autocast = Callable[[], AbstractContextManager]

# Held while a step is captured or watched for host waits, and by background threads while they use the GPU. A thread
# that waits for the GPU would break the capture, or be taken for the step's own wait.
UNDISTURBED = threading.RLock()


def resolve_device(name: str, *, own_gpu: bool = False) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` refers to on this machine.

    With ``own_gpu``, ``auto`` picks the GPU that the fewest other rosa_bench processes hold, and claims it. Processes
    that were launched together get one GPU each.

    Raises `UserError` if the device does not exist.
    """
    import torch

    if processes.launched() > 1 and name != "cpu" and torch.cuda.is_available():
        return _gpu_of_process(name)
    if name == "auto":
        gpu = f"cuda:{_own_gpu()}" if own_gpu and torch.cuda.is_available() else "cuda"
        name = gpu if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = name.partition(":")[2] or "0"
        if not number.isdecimal() or int(number) >= count:
            devices = "1 CUDA device" if count == 1 else f"{count} CUDA devices"
            raise UserError(f"device={name} does not exist: this machine has {devices}; use device=auto")
        return torch.device("cuda", int(number))
    return torch.device(name)


def _gpu_of_process(name: str) -> torch.device:
    """Return this process's GPU. Every process raises the same `UserError` if there are too few."""
    import torch

    here, count = int(os.environ.get("LOCAL_WORLD_SIZE", processes.launched())), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise UserError(f"device={name} is one GPU, and each of {here} processes needs its own; use device=auto")
    if here > count:
        raise UserError(f"{here} processes were started for {count} GPUs; start one process for each GPU")
    return torch.device("cuda", processes.local_rank())


@cache  # a process keeps its GPU
def _own_gpu() -> int:
    """Return the index of the GPU that the fewest other rosa_bench processes hold, and lock it.

    The operating system releases the lock when this process ends, however it ends. Assigning GPUs by job number would
    not work: jobs end out of order, so two could share one GPU while another is idle.
    """
    import torch

    folder = _locks()
    devices = torch.cuda.device_count()
    # Each GPU's first lock, then each GPU's second one, ...
    return next(n % devices for n in itertools.count() if _try_lock(folder / f"{n % devices}-{n // devices}"))


def _locks() -> Path:
    """Return the folder of the locks on GPUs. Raises `OSError` if there is none and it cannot be made."""
    folder = Path(tempfile.gettempdir()) / f"rosa-bench-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _try_lock(path: Path) -> bool:
    """Lock a file until this process ends. Return False if the lock is held, by whatever process."""
    import fcntl

    file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    return True


def sharers(device: torch.device) -> int | None:
    """Count the rosa_bench processes of this user that run something on a GPU now, this one included.

    Each process holds a lock per GPU from its first call on. So the count is right inside containers too, where the
    driver's own list is empty. None on the CPU, or if there is no folder for the locks.
    """
    if device.type != "cuda":
        return None
    import torch

    card = str(torch.cuda.get_device_properties(device).uuid)  # the same whatever CUDA_VISIBLE_DEVICES hides
    try:
        _hold(card)
        return sum(_is_locked(path) for path in _locks().glob(f"{card}.*"))
    except OSError:
        return None


@cache  # one lock per process and GPU
def _hold(card: str) -> None:
    folder = _locks()
    next(n for n in itertools.count() if _try_lock(folder / f"{card}.{n}"))


def _is_locked(path: Path) -> bool:
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
        except BlockingIOError:
            return True
    return False


def resolve_precision(name: str, device: torch.device | str) -> str:
    """Return ``name``, or for ``auto`` bfloat16 on a GPU that supports it and float32 elsewhere."""
    if name != "auto":
        return name
    if not str(device).startswith("cuda"):
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def has_room(device: torch.device, size_bytes: int) -> bool:
    """Return whether data of this size may be stored on ``device``: on a GPU, at most an eighth of the free memory."""
    import torch

    return device.type != "cuda" or size_bytes <= torch.cuda.mem_get_info(device)[0] / 8


def machine_memory_bytes() -> int:
    """Return the size of this machine's memory, without that of GPUs."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(device: torch.device, given_gb: float | None) -> int | None:
    """Return how much memory a run may use: ``given_gb`` times 2^30, or else what is free; None if that is unknown.

    On the CPU that is what Linux can give to a new process without swapping.
    """
    if given_gb is not None:
        return int(given_gb * 2**30)
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else int(free) * 1024


@cache  # equal arguments return the same object
def autocast(precision: str, device: torch.device) -> Autocast:
    """Return a context for forward passes: weights stay float32, matrix products use ``precision``."""
    if precision == "float32":
        return nullcontext
    import torch

    return lambda: torch.autocast(device.type, dtype=getattr(torch, precision))


def describe(device: torch.device) -> dict[str, str | int]:
    """Describe the device for a record."""
    import torch

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
