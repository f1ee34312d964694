"""The training loop. It uses only the contract of methods and Hugging Face's contract of models, never a name."""

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, Batches, parts, targets, to_device
from rosa_bench.methods.base import Changed, Method
from rosa_bench.system.resources.meter import Meter
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.cuda_graphs import Replay, drop_captured, eager
from rosa_bench.training.distributed.together import Together, agree
from rosa_bench.training.observers.base import Observer, Observers
from rosa_bench.training.state import Epoch, Recipe, Scores, Training, TrainingFailedError


class Step(NamedTuple):
    """A step that is to be made: the state of training, and the batch, which may be on another device."""

    training: Training
    batch: Batch


def fit(
    model: nn.Module,
    method: Method,
    batches: Batches,
    *,
    autocast: Callable[[], AbstractContextManager],
    replay: Replay = eager,
    together: Together | None = None,
    **others: Any,
) -> list[Epoch]:
    """Train ``model``, to which ``method`` is already attached, and evaluate it after every epoch.

    ``replay`` may replace a step with a faster equivalent (`rosa_bench.training.cuda_graphs`). With ``together``
    several processes make each step (`rosa_bench.training.distributed.together`). ``others`` are the other arguments of
    `steps`, which says what is raised.
    """
    training = steps(model, method, batches, autocast=autocast, replay=replay, together=together, **others)
    try:
        step = next(training)
        optimise = replay(optimisation(step.training, autocast, together))
        while True:
            try:
                loss = optimise(to_device(step.batch, step.training.device))
            except BaseException as error:  # it belongs to the training
                step = training.throw(error)
            else:
                step = training.send(loss)
    except StopIteration as end:
        return end.value


def steps(
    model: nn.Module,
    method: Method,
    batches: Batches,
    *,
    recipe: Recipe,
    evaluate: Callable[[], Scores],
    autocast: Callable[[], AbstractContextManager],
    meter: Meter,
    replay: Replay = eager,
    together: Together | None = None,
    observers: Iterable[Observer] = (),
    start: Snapshot | None = None,
) -> Generator[Step, Tensor, list[Epoch]]:
    """Yield each step of a training, to be answered with its loss, and do everything else. Returns the epochs.

    The model must return its loss when given labels, as Hugging Face models do. ``observers`` are called in order at
    each hook point. An observer may end the training early by `Training.stop`. Without batches an epoch is its
    evaluation alone. ``start`` is an earlier state from which to resume. Raises `TrainingFailedError` if a loss is not
    finite, or if the method can no longer change the model.
    """
    device, steps_per_epoch = meter.device, len(batches)
    training = Training(model, method, recipe, steps_per_epoch=steps_per_epoch, device=device)
    if start is not None:
        training.state = start
    observer = Observers(observers)
    try:
        observer.on_train_start(training)
        for number in range(len(training.history), recipe.epochs):
            if training.stopped is not None:  # by an observer, maybe before an interruption
                break
            model.train()
            with meter.phase("train"):
                method.before_epoch(model, number)
                for batch in batches.epoch(number, start=training.index):
                    observer.on_step_start(training)
                    if method.is_due(training.step, training.length):
                        coming = partial(first_loss, training, batch, autocast)
                        changed = _change_between(training, coming, meter=meter, replay=replay, together=together)
                        observer.on_method_change(training, changed)
                    factor = method.lr_factor(training.step, training.length)
                    training.set_lr(factor * recipe.lr_at(training.step, steps_per_epoch))
                    training.losses[training.index] = yield Step(training, batch)
                    training.step += 1
                    observer.on_step_end(training)
                mean_loss = math.fsum(training.checked_losses()) / steps_per_epoch if steps_per_epoch else math.nan
            with meter.phase("evaluate"):
                scores = evaluate()
            if not math.isfinite(scores["loss"]):
                raise TrainingFailedError(f"the evaluation loss is {scores['loss']} after epoch {number + 1}")
            training.history.append(Epoch(mean_loss, scores, training.elapsed_s))
            observer.on_epoch_end(training, number, training.history[-1])
    finally:
        observer.on_train_end(training)
    return training.history


def optimisation(
    training: Training, autocast: Callable[[], AbstractContextManager], together: Together | None = None
) -> Callable[[Batch], Tensor]:
    """Return a function that makes one optimizer step on a batch and returns the batch's loss, without the penalty.

    Nothing in it makes the host wait for a GPU, so that it can be captured as a CUDA graph.
    """

    def optimise(batch: Batch) -> Tensor:
        if together is not None:
            loss = together.backward(training, batch, autocast)
        else:
            loss = backward(training.model, batch, autocast, accumulate=training.recipe.accumulate)
        update(training)
        return loss

    return optimise


def update(training: Training) -> None:
    """Make an optimizer step with the gradients of the model's loss, and drop them."""
    model, method, recipe = training.model, training.method, training.recipe
    penalty = method.penalty(model)
    if penalty is not None:
        penalty.backward()
    method.after_backward(model)
    if recipe.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(training.trainable, recipe.optimizer.clip_norm)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)


def backward(
    model: Callable[..., Any], batch: Batch, autocast: Callable[[], AbstractContextManager], *, accumulate: int = 1
) -> Tensor:
    """Accumulate the gradient of the batch's mean loss, part by part, and return that loss, detached.

    Each part is weighted by its share of the labels that count, because parts may hold different numbers of tokens. A
    model of several runs returns one loss for each.
    """
    if accumulate == 1:
        with autocast():
            loss = model(**batch).loss
        loss.backward(torch.ones_like(loss))
        return loss.detach()
    total = batch["labels"].new_zeros((), dtype=torch.float32)
    for part in parts(batch, accumulate):
        with autocast():
            loss = model(**part).loss
        loss = loss * (targets(part).double() / targets(batch)).to(loss.dtype)
        loss.backward(torch.ones_like(loss))
        total = total + loss.detach()
    return total


def first_loss(training: Training, batch: Batch, autocast: Callable[[], AbstractContextManager]) -> Tensor:
    """Return the mean loss of a batch, with its graph. If gradients are accumulated, only of the batch's first part."""
    batch = to_device(batch, training.device)
    accumulate = training.recipe.accumulate
    part = batch if accumulate == 1 else next(iter(parts(batch, accumulate)))
    with autocast():
        return training.model(**part).loss


def _change_between(
    training: Training, coming: Callable[[], Tensor], *, meter: Meter, replay: Replay, together: Together | None
) -> Changed:
    """Let the method change the model between two steps, in all processes alike, if the steps so far were finite."""
    training.checked_losses()
    with meter.phase("resample"):
        changed = change(training, headroom_bytes=meter.headroom_bytes, loss=coming, together=together)
    if changed.recapture:
        drop_captured(replay)
    return changed


def change(
    training: Training,
    *,
    headroom_bytes: int | None,
    loss: Callable[[], Tensor],
    together: Together | None = None,
) -> Changed:
    """Let the method change the model, in all processes alike, and update the optimizer to match.

    Raises `TrainingFailedError` if the method cannot change the model, for example because a weight is NaN.
    """
    model, method = training.model, training.method
    try:
        changed = method.before_step(
            model, training.step, length=training.length, headroom_bytes=headroom_bytes, loss=loss
        )
    except ValueError as error:
        raise TrainingFailedError(f"at the resample before step {training.step + 1}: {error}") from error
    if together is not None and not together.sharded:
        agree(model, method, changed)
    training.follow(changed)
    return changed
