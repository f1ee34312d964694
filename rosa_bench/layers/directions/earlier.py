"""Singular directions of an earlier weight: kept from the start, or found in the background since the last draw.

A split is exact along any orthonormal rows, so the directions may be those of the weight some steps ago. Between two
draws only the factors train. The weight of the last draw is therefore the residual, plus the factors as drawn. These
are small, they are stored in checkpoints, and the directions are a pure function of them. So the moment at which the
thread finishes changes nothing, and neither does an interruption.
"""

import atexit
import logging
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache, partial
from threading import Thread
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.lowrank import WORKSPACE, merge, singular_directions, stacks
from rosa_bench.system.resources.device import UNDISTURBED

log = logging.getLogger(__name__)

LONG_WAIT_S = 5.0  # of a draw, which is worth a line in the log


class Drawn(nn.Module):
    """A layer's factors as last drawn, and which directions of that weight its next draw takes.

    a, b    the factors as drawn, before any training step
    chosen  numbers of the directions, (*n, r)
    """

    a: Tensor
    b: Tensor
    chosen: Tensor

    def __init__(self, layer: LowRankLinear):
        super().__init__()
        *stack, _, rank = layer.a.shape
        self.register_buffer("a", layer.a.detach().clone())
        self.register_buffer("b", layer.b.detach().clone())
        self.register_buffer("chosen", torch.zeros((*stack, rank), dtype=torch.int64, device=layer.a.device))
        self.coming: Future[Tensor] | None = None
        self.source = self.chosen, 0  # from which `coming` is computed, and its version

    def note(self, layer: LowRankLinear, chosen: Int[Tensor, "*n r"]) -> None:
        """Remember the layer's factors, which have just been drawn, and the directions of the next draw."""
        self.a.copy_(layer.a.detach())
        self.b.copy_(layer.b.detach())
        self.chosen.copy_(chosen)

    @property
    def is_fresh(self) -> bool:
        """Whether ``coming`` is being computed from the factors as they are, and not from those before a load.

        A load writes all tensors or replaces them. The source is kept, so no other tensor can have its address.
        """
        (source, version), now = self.source, self.chosen
        return self.coming is not None and (version, source.data_ptr()) == (now._version, now.data_ptr())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the computation out of a copy of the model, which starts its own if it needs one."""
        return {**self.__dict__, "coming": None}


def drawn_of(layer: LowRankLinear) -> Drawn:
    """Return what was inserted into a layer to remember its last draw."""
    return layer.drawn  # pyrefly: ignore[bad-return]


def start(layers: Sequence[LowRankLinear]) -> None:
    """Let a thread find the directions of the layers' next draw, one layer after another.

    It waits for nothing, and does nothing if they are found or being found already.
    """
    if all(drawn_of(layer).is_fresh for layer in layers):
        return
    tasks: list[tuple[weakref.ref[LowRankLinear], Future[Tensor]]] = []
    for layer in layers:
        drawn = drawn_of(layer)
        if drawn.coming is not None:
            drawn.coming.cancel()
        drawn.coming, drawn.source = Future(), (drawn.chosen.detach(), drawn.chosen._version)
        tasks.append((weakref.ref(layer), drawn.coming))
    device, written = layers[0].a.device, None
    if device.type == "cuda":
        written = torch.cuda.current_stream(device).record_event()
    thread = Thread(target=_work, args=(tasks, device, written), name="directions", daemon=True)
    thread.start()
    stop = partial(_stop, thread, [future for _, future in tasks])
    atexit.register(stop)
    tasks[-1][1].add_done_callback(lambda _: atexit.unregister(stop))


def upcoming(layers: Sequence[LowRankLinear]) -> list[Float[Tensor, "*n r in"]]:
    """Return the directions of the layers' next draw, in float64 on the CPU. Wait for those not found yet."""
    started = time.perf_counter()
    start(layers)  # after a load they are not being found
    futures = [drawn_of(layer).coming for layer in layers]
    found = [future.result() for future in futures if future is not None]
    if (waited_s := time.perf_counter() - started) > LONG_WAIT_S:
        log.info("a draw waited %.0f s for its directions; method.svd_of=initial never waits", waited_s)
    return found


def _work(
    tasks: list[tuple[weakref.ref[LowRankLinear], Future[Tensor]]],
    device: torch.device,
    written: torch.cuda.Event | None,
) -> None:
    """Find the directions of each layer that still exists, on the CPU. ``written`` is when its tensors are ready."""
    if written is not None:
        _stream(device).wait_event(written)
    for reference, future in tasks:
        layer = reference()
        if layer is None or not future.set_running_or_notify_cancel():
            continue
        try:
            with torch.no_grad():
                future.set_result(singular_directions(*_copied(layer)))
        except BaseException as error:  # it is raised where the directions are asked for
            future.set_exception(error)
        del layer


def _copied(layer: LowRankLinear) -> tuple[Tensor, Tensor]:
    """Return the weight of the layer's last draw, and the directions chosen, on the CPU."""
    drawn = drawn_of(layer)
    if not drawn.a.is_cuda:
        return merge(layer.exact_residual(), drawn.a, drawn.b, layer.scale), drawn.chosen.clone()
    with UNDISTURBED, torch.cuda.stream(_stream(drawn.a.device)):
        return merge(layer.exact_residual(), drawn.a, drawn.b, layer.scale).cpu(), drawn.chosen.cpu()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the process's stream for background copies. cuBLAS keeps a workspace for each stream it has used."""
    return torch.cuda.Stream(device)


def _stop(thread: Thread, futures: list[Future[Tensor]]) -> None:
    """Before the program ends, wait for the layer in work alone: a thread inside a library must not outlive it."""
    for future in futures:
        future.cancel()
    thread.join()


def keep_directions(layers: Sequence[LowRankLinear], *, headroom_bytes: int | None = None) -> None:
    """Keep all right singular vectors of the layers' weights in the CPU's memory: at most as much as the weights take.

    Equal shapes are decomposed together, within ``headroom_bytes`` of a GPU's memory. Raises ValueError if a weight
    contains NaN or Inf.
    """
    limit = {} if headroom_bytes is None else {"limit_bytes": headroom_bytes // WORKSPACE}
    for positions in stacks([layer.shape for layer in layers], **limit):
        group = [layers[position] for position in positions]
        weights = torch.stack([layer.merged_weight().detach() for layer in group])
        if not torch.isfinite(weights).all():
            raise ValueError("cannot decompose a weight that contains NaN or Inf")
        every = torch.arange(min(weights.shape[-2:]), device=weights.device).expand(*weights.shape[:-2], -1)
        for layer, rows in zip(group, singular_directions(weights, every).to(weights.dtype).cpu(), strict=True):
            layer.directions = rows


def kept_rows(layer: LowRankLinear, chosen: Int[Tensor, "*n r"]) -> Float[Tensor, "*n r in"]:
    """Return the chosen ones of a layer's kept directions, on the CPU."""
    directions: Tensor = layer.directions  # pyrefly: ignore[bad-assignment]
    return directions.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, directions.shape[-1]))
