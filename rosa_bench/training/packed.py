"""Train several runs in one pass: a pack.

The runs of a pack share their task, model, method, seed and length, and differ in the learning rate. So they see the
same rows and the same dropout masks, and each ends like the run alone, up to rounding. Each keeps its own model,
optimizer, history and observers. Only the step is common: one forward and backward pass over the rows of all runs.
"""

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, Batches, to_device
from rosa_bench.layers.packs.by_run import ByRun
from rosa_bench.layers.packs.packed import Rows, UnpackableError, pack_layers
from rosa_bench.layers.packs.packed_low_rank import PackedLowRank, SharedInputs
from rosa_bench.layers.packs.run_stacks import Stacks
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.methods.base import Method
from rosa_bench.training.cuda_graphs import Replay, eager, forget_captured
from rosa_bench.training.loop import Step, backward, update
from rosa_bench.training.state import Epoch, Training

Steps = Generator[Step, Tensor, list[Epoch]]
Autocast = Callable[[], AbstractContextManager]


def sharing_copy(model: nn.Module, own: Sequence[Tensor] = ()) -> Any:
    """Copy a model, but none of its tensors except ``own``."""
    copied = {id(tensor) for tensor in own}
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(it): it for it in tensors if id(it) not in copied})


def own_copy(model: nn.Module, method: Method) -> Any:
    """Copy an attached model for another run. Tensors that training cannot change are shared."""
    changing = {tensor.data_ptr() for tensor in method.state(model).values() if tensor.numel()}
    trained = [it for it in (*model.parameters(), *model.buffers()) if it.requires_grad or it.data_ptr() in changing]
    return sharing_copy(model, trained)


class Pack:
    """The common forward and backward pass of several runs, and one optimizer step for each.

    The tensors that train become views of the pack's, which must be written in place, as captured graphs also need.
    Build it after restoring checkpoints and before capturing graphs. Raises `UnpackableError` if it is not possible.
    """

    def __init__(self, trainings: Sequence[Training], autocast: Autocast):
        self.trainings, self.autocast = tuple(trainings), autocast
        self.count, self.rows, self.stacks = len(trainings), Rows(), Stacks()
        if len({training.step for training in trainings}) > 1:  # a damaged checkpoint was skipped
            raise UnpackableError("these runs are not equally far, so they do not see the same rows; use packed=1")
        first = trainings[0]
        self.model: nn.Module = sharing_copy(first.model).train()
        vars(self.model).pop("forward", None)  # one of ours, such as a loss in chunks, would give one loss for all runs
        pack_layers(self.model, [training.model for training in trainings], self.stacks, self.rows)
        self.low_rank = [layer for layer in self.model.modules() if isinstance(layer, PackedLowRank)]
        self.inputs: SharedInputs | None = None

    def forward(self, **batch: Tensor) -> Any:
        """Return the model's output for all runs on one batch. Its loss has one entry for each run."""
        wide = {name: tensor.repeat(self.count, *[1] * (tensor.ndim - 1)) for name, tensor in batch.items()}
        self.rows.total = len(next(iter(wide.values())))
        if self.inputs is None:
            self.inputs = self._shared_inputs(wide)
        with ByRun(self.count):
            output = self.model(**wide)
        self.inputs.release()
        if output.loss.shape != (self.count,):
            raise UnpackableError("this model computes its loss in a way that a pack cannot split by run; use packed=1")
        return output

    @torch.no_grad()
    def _shared_inputs(self, wide: Batch) -> SharedInputs:
        """Find the layers that share their inputs, in a pass without dropout, which leaves random generators alone."""
        inputs = SharedInputs()
        for layer in self.low_rank:
            layer.inputs = inputs
        with evaluating(self.model), inputs.watched():
            self.model(**wide)
        return inputs

    def optimise(self, batch: Batch) -> Tensor:
        """Make one optimizer step of every run. Returns their losses, (runs). Can be captured as a CUDA graph."""
        losses = backward(self.forward, batch, self.autocast, accumulate=self.trainings[0].recipe.accumulate)
        self.stacks.hand_out_gradients()
        for training in self.trainings:
            update(training)
        return losses

    def refresh(self) -> None:
        """Follow what the runs' methods have written into their models since the last step."""
        for layer in self.low_rank:
            layer.refresh()


def fit_together(
    runs: Sequence[Steps],
    ended: Callable[[int, list[Epoch] | BaseException], None],
    *,
    autocast: Autocast,
    replay: Replay = eager,
) -> None:
    """Train all ``runs`` (`rosa_bench.training.loop.steps`) step by step, in one pass each.

    A run that ends or fails leaves the others: ``ended`` gets its number, and its history or its error. The pack gets
    smaller at the end of that epoch. An error of the common pass ends all runs.
    """
    waiting: dict[int, Step] = {}

    def advance(number: int, answer: Callable[[], Step]) -> None:
        try:
            waiting[number] = answer()
        except StopIteration as end:
            waiting.pop(number, None)
            ended(number, end.value)
        except BaseException as error:  # handed on, to the run that it belongs to
            waiting.pop(number, None)
            ended(number, error)

    for number, run in enumerate(runs):
        advance(number, lambda run=run: next(run))
    pack, optimise, places = None, None, dict[int, int]()
    while waiting:
        trainings = [step.training for step in waiting.values()]
        batch = next(iter(waiting.values())).batch
        try:
            if pack is None or optimise is None or (trainings[0].index == 0 and len(trainings) < pack.count):
                if optimise is not None:
                    forget_captured(replay)
                pack = Pack(trainings, autocast)
                places = {number: place for place, number in enumerate(waiting)}
                optimise = replay(pack.optimise)
            pack.refresh()
            losses = optimise(to_device(batch, trainings[0].device))
        except BaseException as error:
            for number in list(waiting):
                advance(number, lambda run=runs[number], error=error: run.throw(error))
            continue
        for number in list(waiting):
            advance(number, lambda run=runs[number], loss=losses[places[number]]: run.send(loss))


class SharedBatches(Batches):
    """Batches that several runs ask for in step, each made once."""

    def __init__(self, batches: Batches):
        super().__init__({}, examples=batches.examples, batch_size=batches.batch_size, seed=batches.seed)
        self.batches = batches
        self._source: Iterator[Batch] = iter(())
        self._place: tuple[int, int] | None = None  # epoch and number of the latest batch
        self._batch: Batch = {}

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        for index in range(start, len(self)):
            if self._place != (number, index):
                if self._place != (number, index - 1) or index == start:
                    self._source = self.batches.epoch(number, start=index)
                self._place, self._batch = (number, index), next(self._source)
            yield self._batch
