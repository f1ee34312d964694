"""Steps captured as CUDA graphs: recorded once for each kind of batch, then replayed by a single launch.

A training step of an encoder on short sentences is over a thousand small kernels, and Python takes many times longer to
launch them than the GPU to run them. A replay is one launch. It reads and writes the same memory as the step that was
recorded, so parameters, buffers, optimizer state and learning rate stay where they are: all are written in place.
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

log = logging.getLogger(__name__)

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, ...])
Step = Callable[[dict[str, Tensor]], Outputs]
Replay = Callable[[Step[Outputs]], Step[Outputs]]


def eager(step: Step[Outputs]) -> Step[Outputs]:
    """The step as it is: the reference, and all there is without a GPU."""
    return step


class Recorded(NamedTuple):
    """A graph, and the memory that it reads its batch from and leaves its outputs in."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: Tensor | tuple[Tensor, ...]


@cache
def own_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of this process for captured steps: one for all its runs.

    cuBLAS keeps a workspace for every stream that it was used on, 32 MiB and more on a Hopper GPU: with a stream a run
    each run of a sweep would have less memory than the one before.
    """
    return torch.cuda.Stream(device)


class Replayer:
    """Makes steps into ones that are replayed, on one stream and with one pool of memory for all their graphs.

    A step equal to one that came before shares its graphs.

    always    capture also what makes the host wait; else such steps are run as they are, and the log says so
    warm_ups  runs of each kind of batch before it is captured
    """

    def __init__(self, device: torch.device, *, always: bool, warm_ups: int):
        self.always, self.warm_ups = always, warm_ups
        self.stream = own_stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.replayed: dict[Step, Replayed] = {}

    def __call__(self, step: Step[Outputs]) -> "Replayed":
        """``step``, replayed. It takes a batch and gives a tensor or several; all else it changes in place."""
        return self.replayed.setdefault(step, Replayed(step, self))


class Replayed:
    """A step of which each kind of batch (names, shapes, types) is run as it is first, then captured, and replayed.

    The first runs are ones like any other, and the warm-up that a capture needs: they make the optimizer's state.
    """

    def __init__(self, step: Step, replayer: Replayer):
        self.step, self.replayer = step, replayer
        self.runs: Counter[tuple] = Counter()  # before the capture
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
                    log.warning("a step makes the host wait and is not captured as a CUDA graph: %s", waits[0])
                self.plain.add(kind)
            return outputs
        if kind not in self.recorded:
            self.recorded[kind] = self._record(batch)
        recorded = self.recorded[kind]
        for name, tensor in batch.items():
            recorded.inputs[name].copy_(tensor)
        recorded.graph.replay()
        # Copies: the next replay writes over them, and another graph may.
        if isinstance(recorded.outputs, Tensor):
            return recorded.outputs.clone()
        return tuple(output.clone() for output in recorded.outputs)

    def drop(self) -> None:
        """Forget everything captured and counted so far."""
        self.recorded.clear()
        self.runs.clear()
        self.plain.clear()

    def _record(self, batch: Mapping[str, Tensor]) -> Recorded:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # what it frees might be a graph, and to free one while another is captured breaks that
        try:
            with torch.cuda.graph(graph, pool=self.replayer.pool, stream=self.replayer.stream):
                outputs = self.step(inputs)
        except torch.OutOfMemoryError:  # a RuntimeError too, but cuda_graphs=never is not what mends it
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"no CUDA graph can be captured of this step; use cuda_graphs=never ({error})"
            ) from error
        finally:
            if collects:
                gc.enable()
        return Recorded(graph, inputs, outputs)


def drop_captured(replay: Replay) -> None:
    """Drop every captured graph: each kind of batch is warmed up and captured anew when it next comes."""
    if isinstance(replay, Replayer):
        for replayed in replay.replayed.values():
            replayed.drop()


@contextmanager
def replaying(device: torch.device, choice: str, *, warm_ups: int = 1) -> Iterator[Replay]:
    """Inside the block steps can be made into replayed ones. ``choice``: ``auto``, ``always`` or ``never``.

    Without a GPU, and with ``never``, a step is given back as it is: that is the reference. Everything in the block is
    done on one stream, so that what is run and what is captured follow each other as they stand in the program.
    """
    if device.type != "cuda" or choice == "never":
        yield eager
        return
    replayer = Replayer(device, always=choice == "always", warm_ups=warm_ups)
    replayer.stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(replayer.stream):
        yield replayer
    torch.cuda.current_stream(device).wait_stream(replayer.stream)
    replayer.replayed.clear()  # and with the graphs goes their memory


@contextmanager
def detect_host_sync() -> Iterator[list[str]]:
    """What in the block made the host wait for the GPU, in words that say where; known when the block has ended."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            waits.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):  # said of itself
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
