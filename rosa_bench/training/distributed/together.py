"""Train one model in several processes, each on its share of every batch.

Every process has the same batches in the same order, and takes its rows of each. It weights its loss by its share of
the labels that count, so that the sum of the processes' gradients is the gradient of the whole batch, whether labels
are rows or tokens. The sum is the same bits in every process, so all of them make the same optimizer step, clip by the
same norm, and see the same losses.

The gradients of what trains are summed in a few flat buckets after the backward pass, by plain all-reduces.
PyTorch's DistributedDataParallel would overlap them with the pass, but it averages instead of weighting, needs its own
handling of accumulated parts and of parameters that stop training, and wraps the model, whose modules methods look for
by name. Adapters have few gradients to exchange.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, parts, targets
from rosa_bench.methods.base import Changed, Method
from rosa_bench.system import processes
from rosa_bench.system.seeds import seed_of
from rosa_bench.system.tensors import put, whole
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training

NO_CHANGE = Changed()
BUCKET = 1 << 25  # elements of one all-reduce: 128 MiB in float32


class Together:
    """The step of one model that several processes train.

    sharded  whether FSDP exchanges the gradients, in the backward pass (`rosa_bench.training.distributed.sharded`)
    """

    def __init__(self, *, sharded: bool):
        self.sharded = sharded
        self.rank, self.count = processes.rank(), processes.count()

    def share(self, batch: Batch) -> tuple[Batch, bool]:
        """Return this process's rows of a batch, and whether they count.

        A process for which there is no row gets the first one, which does not count, because all must make the same
        passes to exchange gradients.
        """
        mine = {name: tensor.tensor_split(self.count)[self.rank] for name, tensor in batch.items()}
        if len(mine["labels"]):
            return mine, True
        return {name: tensor[:1] for name, tensor in batch.items()}, False

    def backward(self, training: Training, batch: Batch, autocast: Callable[[], AbstractContextManager]) -> Tensor:
        """Leave the gradient of the whole batch's mean loss in every process, and return that loss, detached.

        Each part of an accumulated batch is shared out.
        """
        total = torch.zeros((), device=training.device)
        # FSDP averages over the processes.
        times = self.count if self.sharded else 1
        try:
            for part in parts(batch, training.recipe.accumulate):
                mine, counts = self.share(part)
                with autocast():
                    loss = training.model(**mine).loss
                loss = loss * (counts * targets(mine).double() / targets(batch)).to(loss.dtype)
                total = total + loss.detach()
                (loss * times).backward()
        except RuntimeError as error:
            if self.sharded and processes.is_lost(error):  # its exchanges are FSDP's
                raise processes.lost() from error
            raise
        if not self.sharded:
            add_up_gradients(training.trainable)
        return processes.add_up(total)


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient, in place, by its sum over all processes.

    Every process has made the same passes, so the same parameters have gradients everywhere.
    """
    for bucket in buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = processes.add_up(torch.cat([gradient.reshape(-1) for gradient in bucket]))
        for gradient, summed in zip(bucket, flat.split([it.numel() for it in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group gradients of one type, in order, into buckets of at most `BUCKET` elements, or of one gradient."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(it.numel() for it in bucket) + gradient.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@torch.no_grad()
def agree(model: nn.Module, method: Method, changed: Changed = NO_CHANGE) -> None:
    """Give every process the first one's state of a method, what training can change, and its changes of basis.

    They are the same already unless a computation on a GPU is not reproducible to the last bit. Then even the signs of
    singular vectors may differ, and moments that follow one basis would not fit another.
    """
    for tensor in (*method.state(model).values(), *(turn.matrix for turn in changed.rotate)):
        own = whole(tensor).detach()
        bits = own.view(torch.uint8) if own.dtype == torch.bool else own
        put(tensor, processes.take_from(bits.contiguous()).view(own.dtype))


class OwnRandomness(Observer):
    """Gives each process dropout masks of its own, from the run's seed, and restores them from a checkpoint.

    The first process goes on as it would alone. Another one gets back the generators that it had when the checkpoint
    was written or, if it was not there then, new ones of the stream ``process <rank>``, numbered by the step.
    """

    def __init__(self, seed: int, earlier: Snapshot | None):
        self.seed, self.earlier = seed, earlier

    def on_train_start(self, training: Training) -> None:
        rank = processes.rank()
        if not rank:
            return
        stored = {} if self.earlier is None else self.earlier.part("processes").tensors
        torch.manual_seed(seed_of(self.seed, f"process {rank}", training.step))
        if all(len(tensor) > rank for tensor in stored.values()):
            if "torch" in stored:
                torch.set_rng_state(stored["torch"][rank].clone())  # torch reads a view from its storage's start
            if "cuda" in stored and training.device.type == "cuda":
                torch.cuda.set_rng_state(stored["cuda"][rank].clone(), training.device)


def own_randomness(device: torch.device) -> Snapshot:
    """Return the state of the generators of all processes, stacked by rank. Empty for a single process."""
    if processes.count() == 1:
        return Snapshot({}, {})
    found = {"torch": processes.stacked(torch.get_rng_state())}
    if device.type == "cuda":
        found["cuda"] = processes.stacked(torch.cuda.get_rng_state(device))
    return Snapshot(found, {})
