"""The processes that make one run together, as torchrun and accelerate launch start them.

Both set RANK, WORLD_SIZE and LOCAL_RANK. The first process, of rank 0, alone prints and writes; the others compute.
They exchange tensors by NCCL on GPUs and by gloo on CPUs. Importing this imports no torch, because every command asks
who it is. In a single process everything here does nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rosa_bench.system.errors import PreemptedError, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GRACE_S = 20.0  # torchrun kills 30 s after it has asked to stop
OVER = b"\0"
LAUNCHERS = "torchrun --nproc-per-node=N -m rosa_bench ..., or accelerate launch --num-processes=N -m rosa_bench ..."

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass
class _Group:
    """What this process has joined.

    store   small values that all processes see, from when they first met
    rescue  starts the time after which `rescued` ends this process
    """

    joined: bool = False
    store: Any = None
    rescue: Callable[[], object] | None = None


_group = _Group()


def launched() -> int:
    """Return how many processes a launcher started together: 1 without a launcher.

    Raises `UserError` if its variables are not numbers that go together.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 1
    found = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not all(value.isdecimal() for value in found.values()) or int(found["RANK"]) >= int(found["WORLD_SIZE"]):
        listed = ", ".join(f"{name}={value}" for name, value in found.items())
        raise UserError(f"{listed} in the environment do not go together; start the run with {LAUNCHERS}")
    return int(found["WORLD_SIZE"])


def rank() -> int:
    """Return this process's number among those that were launched, from 0."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def local_rank() -> int:
    """Return this process's number among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() > 1 else 0


def is_first() -> bool:
    """Return whether this process prints and writes: the only one, or the one of rank 0."""
    return rank() == 0


def count() -> int:
    """Return how many processes share the work now: 1 outside of `joined`."""
    return launched() if _group.joined else 1


def quieten() -> None:
    """Let a process that is not the first print nothing, except errors that only it has."""
    if is_first():
        return
    from rich import get_console

    get_console().quiet = True
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    logging.disable(logging.ERROR)


def reported(message: str) -> str | None:
    """Return an error as this process is to print it, or None if another one does.

    The first process to have an error prints it. Before the processes meet, all have the same errors.
    """
    try:
        here = f"process {rank()}: " if rank() else ""
    except UserError:
        return message  # which is about these variables
    if _group.store is None:
        return None if here else message
    with suppress(RuntimeError):  # the store is gone with the process that kept it
        return here + message if _group.store.add(f"reported {message}", 1) == 1 else None
    return None if here else message


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside the block, the launched processes share one run. Raises `PreemptedError` if another one has ended.

    They meet once, and stay in touch for later runs: meeting again at the same address is a race.
    """
    if _group.store is None:
        _meet(device)
    _group.joined = True
    try:
        yield
        wait()
    except BaseException:
        atexit.unregister(_part)  # taking leave of processes that hang would hang too
        raise
    finally:
        _group.joined = False


def _meet(device: torch.device) -> None:
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    _or_lost(distributed.init_process_group)(backend)
    _group.store = distributed.distributed_c10d._get_default_store()
    atexit.register(_part)


def _part() -> None:
    from torch import distributed

    with suppress(RuntimeError):
        distributed.destroy_process_group()


@contextmanager
def rescued(save: Callable[[str], None]) -> Iterator[None]:
    """End a process that cannot end by itself, after ``save`` with a reason.

    A GPU waits for the others in an exchange, and this process for the GPU, where no signal reaches it. So a thread
    ends it `GRACE_S` seconds after it was asked to stop or has lost another process, if it is still in the block.
    """
    if count() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        if os.read(reading, 1) == OVER:
            return
        if select.select([over], [], [], GRACE_S)[0]:
            return
        save("another process of this run did not answer; the same command continues from the last checkpoint")
        os._exit(143)

    over, ended = os.pipe()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to even if Python waits
    _group.rescue = partial(os.write, writing, b"\1")
    watching = threading.Thread(target=watch, daemon=True, name="watching for a stop")
    watching.start()
    try:
        yield
    finally:
        _group.rescue = None
        signal.set_wakeup_fd(before)
        os.write(ended, OVER)
        os.write(writing, OVER)
        watching.join()
        for end in (reading, writing, over, ended):
            os.close(end)


def _or_lost(exchange: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let an exchange raise `PreemptedError` if it fails, as it does when another process has ended."""

    @wraps(exchange)
    def attempt(*arguments: Given.args, **options: Given.kwargs) -> Result:
        try:
            return exchange(*arguments, **options)
        except RuntimeError as error:
            if is_lost(error):
                raise lost() from error
            raise

    return attempt


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that an exchange with another process failed."""
    from torch import distributed

    text = str(error)
    return isinstance(error, distributed.DistError) or "gloo/" in text or "Connection closed by peer" in text


def lost() -> PreemptedError:
    """Return the error of a run whose other processes have ended."""
    if _group.rescue is not None:
        _group.rescue()
    return PreemptedError("another process of this run has ended; the same command continues from the last checkpoint")


@_or_lost
def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        most([0])


@_or_lost
def most(values: Sequence[int]) -> list[int]:
    """Return the largest of all processes' values, place by place. No GPU waits for it."""
    if count() == 1:
        return list(values)
    import torch
    from torch import distributed

    tensor = torch.tensor(values, dtype=torch.int64)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.tolist()


@_or_lost
def add_up(tensor: Tensor) -> Tensor:
    """Replace a tensor, in place, by its sum over all processes, which is the same bits in each. Returns it."""
    if count() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


@_or_lost
def take_from(tensor: Tensor, owner: int = 0) -> Tensor:
    """Replace a contiguous tensor, in place, by that of one process. Returns it."""
    if count() > 1:
        from torch import distributed

        distributed.broadcast(tensor, owner)
    return tensor


@_or_lost
def stacked(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, of one shape and on the CPU, stacked by rank: (processes, ...)."""
    if count() == 1:
        return tensor.unsqueeze(0)
    import torch
    from torch import distributed

    found = [torch.empty_like(tensor) for _ in range(count())]
    distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, by rank. They travel as JSON."""
    if count() == 1:
        return [value]
    import json  # here, because the program settles where modules come from before it imports more

    import torch

    text = json.dumps(value).encode()
    (longest,) = most([len(text)])
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    lengths = stacked(torch.tensor(len(text))).tolist()
    return [json.loads(bytes(row[:length].tolist())) for row, length in zip(stacked(padded), lengths, strict=True)]
