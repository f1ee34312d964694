"""Capture steps as CUDA graphs: record one per kind of batch, then replay it with a single launch.

A training step of an encoder on short sentences runs over a thousand small kernels. Python takes many times longer to
launch them than the GPU takes to run them. A replay is one launch. It reads and writes the same memory as the captured
step, so parameters, buffers, optimizer state and learning rate must be written in place.
"""

import gc
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from rosa_bench.system.resources.device import UNDISTURBED

log = logging.getLogger(__name__)

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...])
Step = Callable[[dict[str, Tensor]], Outputs]
Replay = Callable[[Step[Outputs]], Step[Outputs]]


def eager(step: Step[Outputs]) -> Step[Outputs]:
    """Return the step unchanged. This is the reference, and the only choice without a GPU."""
    return step


class Recorded(NamedTuple):
    """A graph, with the memory from which it reads its batch and into which it writes its outputs."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: Tensor | tuple[Tensor, ...]


@cache
def own_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the process's stream for captured steps, which all its runs share.

    cuBLAS keeps a workspace for every stream that it has used, 32 MiB or more on a Hopper GPU. With one stream per run,
    each run of a sweep would have less memory than the last.
    """
    return torch.cuda.Stream(device)


class Replayer:
    """Turns steps into replayed steps, which share one stream and one memory pool.

    Equal steps share their graphs.

    always    also capture steps that make the host wait; otherwise they run eagerly, with a warning in the log
    warm_ups  eager runs of each kind of batch before it is captured
    """

    def __init__(self, device: torch.device, *, always: bool, warm_ups: int):
        self.always, self.warm_ups = always, warm_ups
        self.stream = own_stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.replayed: dict[Step, Replayed] = {}

    def __call__(self, step: Step[Outputs]) -> "Replayed":
        """Return ``step`` in replayed form. It must return one or more tensors and write everything else in place."""
        return self.replayed.setdefault(step, Replayed(step, self))


class Replayed:
    """A step that first runs eagerly for each kind of batch (names, shapes, types), then is captured and replayed.

    The eager runs are ordinary steps. They also serve as the warm-up for a capture, by creating the optimizer's state.
    """

    def __init__(self, step: Step, replayer: Replayer):
        self.step, self.replayer = step, replayer
        self.runs: Counter[tuple] = Counter()  # eager runs, before the capture
        self.recorded: dict[tuple, Recorded] = {}
        self.plain: set[tuple] = set()

    def __call__(self, batch: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        kind = tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.items())
        if kind in self.plain:
            return self.step(batch)
        if self.runs[kind] < self.replayer.warm_ups:
            self.runs[kind] += 1
            with detect_host_sync() as waits:
                outputs = self.step(batch)
            if waits and not self.replayer.always:
                if not self.plain:
                    log.warning("not capturing a step as a CUDA graph because it makes the host wait: %s", waits[0])
                self.plain.add(kind)
            return outputs
        if kind not in self.recorded:
            self.recorded[kind] = self._record(batch)
        recorded = self.recorded[kind]
        for name, tensor in batch.items():
            recorded.inputs[name].copy_(tensor)
        recorded.graph.replay()
        # Copy the outputs: the next replay overwrites them, and another graph may too.
        if isinstance(recorded.outputs, Tensor):
            return recorded.outputs.clone()
        return tuple(output.clone() for output in recorded.outputs)

    def drop(self) -> None:
        """Drop all graphs and reset all counts."""
        self.recorded.clear()
        self.runs.clear()
        self.plain.clear()

    def _record(self, batch: Mapping[str, Tensor]) -> Recorded:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # it might free a graph, which would break the capture of another
        try:
            with UNDISTURBED, torch.cuda.graph(graph, pool=self.replayer.pool, stream=self.replayer.stream):
                outputs = self.step(inputs)
        except torch.OutOfMemoryError:  # also a RuntimeError, but cuda_graphs=never would not help
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"this step cannot be captured as a CUDA graph; use cuda_graphs=never ({error})"
            ) from error
        finally:
            if collects:
                gc.enable()
        return Recorded(graph, inputs, outputs)


def drop_captured(replay: Replay) -> None:
    """Drop every captured graph. Each kind of batch is then warmed up and captured again."""
    if isinstance(replay, Replayer):
        for replayed in replay.replayed.values():
            replayed.drop()


def forget_captured(replay: Replay) -> None:
    """Drop every captured graph, and every step that has one, with the memory that it holds."""
    drop_captured(replay)
    if isinstance(replay, Replayer):
        replay.replayed.clear()


@contextmanager
def replaying(device: torch.device, choice: str, *, warm_ups: int = 1) -> Iterator[Replay]:
    """Yield a function that turns steps into replayed ones. ``choice`` is ``auto``, ``always`` or ``never``.

    Without a GPU, or with ``never``, the function returns a step unchanged. Everything in the block runs on one stream,
    so eager and captured work is executed in program order.
    """
    if device.type != "cuda" or choice == "never":
        yield eager
        return
    replayer = Replayer(device, always=choice == "always", warm_ups=warm_ups)
    replayer.stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(replayer.stream):
        yield replayer
    torch.cuda.current_stream(device).wait_stream(replayer.stream)
    replayer.replayed.clear()  # also frees the graphs' memory


@contextmanager
def detect_host_sync() -> Iterator[list[str]]:
    """Yield a list that, after the block, names each file and line that made the host wait for the GPU."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with UNDISTURBED, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            waits.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):  # a notice about the mode itself
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
