"""The one training loop. It knows methods by their contract, models by Hugging Face's, and no one's name."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, Batches, parts, targets, to_device
from rosa_bench.methods.base import Method
from rosa_bench.optim.schedule import lr_at
from rosa_bench.system.meter import Meter
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.progress import TrainingProgress
from rosa_bench.training.state import Epoch, Recipe, Scores, Training, TrainingFailedError


def fit(
    model: nn.Module,
    method: Method,
    batches: Batches,
    *,
    recipe: Recipe,
    evaluate: Callable[[], Scores],
    autocast: Callable[[], AbstractContextManager],
    meter: Meter,
    replay: Replay = eager,
    end_epoch: Callable[[int, Epoch], None] = lambda _number, _epoch: None,
    between: Callable[[Training], None] = lambda _training: None,
    start: Snapshot | None = None,
) -> list[Epoch]:
    """Train ``model``, to which ``method`` is attached, and evaluate it after every epoch.

    The model returns its loss when given labels, as Hugging Face's do. ``replay`` may make a step into one that does
    the same faster (`rosa_bench.training.cuda_graphs`). ``between`` is called after every step, and after every epoch
    once ``end_epoch`` was: it may save the training's state. ``start`` is such a state to go on from. Raises
    `TrainingFailedError` when a loss is not finite.
    """
    device, steps_per_epoch = meter.device, len(batches)
    total = recipe.epochs * steps_per_epoch
    training = Training(model, recipe, steps_per_epoch=steps_per_epoch, device=device)
    if start is not None:
        training.state = start
    optimise = replay(optimisation(training, recipe, autocast))
    progress = TrainingProgress(epochs=recipe.epochs, steps_per_epoch=steps_per_epoch, batch_size=batches.batch_size)
    with progress:
        for epoch in range(len(training.history), recipe.epochs):
            model.train()
            with meter.phase("train"):
                for batch in batches.epoch(epoch, start=training.index):
                    step = training.step
                    if method.is_due(step, steps_per_epoch):
                        training.checked_losses()
                        with meter.phase("resample"):
                            replaced = resample(model, method, step, headroom_bytes=meter.headroom_bytes)
                            reset_optimizer_state(training.optimizer, replaced, recipe.reset)
                    lr = recipe.lr * lr_at(step, total, recipe.warmup_steps, recipe.schedule)
                    training.set_lr(lr)
                    training.losses[training.index] = optimise(to_device(batch, device))
                    training.step += 1
                    if progress.due():
                        progress.show(training.step, loss=training.checked_losses()[-1], lr=lr)
                    between(training)
                mean_loss = math.fsum(training.checked_losses()) / steps_per_epoch
            with meter.phase("evaluate"):
                scores = evaluate()
            if not math.isfinite(scores["loss"]):
                raise TrainingFailedError(f"the evaluation loss is {scores['loss']} after epoch {epoch + 1}")
            training.history.append(Epoch(mean_loss, scores, training.elapsed_s))
            progress.end_epoch(epoch, loss=mean_loss, scores=scores, seconds=training.elapsed_s)
            end_epoch(epoch, training.history[-1])
            between(training)
    return training.history


def optimisation(
    training: Training, recipe: Recipe, autocast: Callable[[], AbstractContextManager]
) -> Callable[[Batch], Tensor]:
    """One optimizer step on a batch, whose loss it returns. Nothing in it makes the host wait for a GPU."""

    def optimise(batch: Batch) -> Tensor:
        loss = backward(training.model, batch, autocast, accumulate=recipe.accumulate)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(training.trainable, recipe.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        return loss

    return optimise


def backward(
    model: nn.Module, batch: Batch, autocast: Callable[[], AbstractContextManager], *, accumulate: int = 1
) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters, part by part, and return that loss, detached.

    Parts weigh by how many of their labels count: a mean over tokens is not one over sequences.
    """
    if accumulate == 1:
        with autocast():
            loss = model(**batch).loss
        loss.backward()
        return loss.detach()
    total = batch["labels"].new_zeros((), dtype=torch.float32)
    for part in parts(batch, accumulate):
        with autocast():
            loss = model(**part).loss
        loss = loss * (targets(part).double() / targets(batch)).to(loss.dtype)
        loss.backward()
        total += loss.detach()
    return total


def resample(model: nn.Module, method: Method, step: int, *, headroom_bytes: int | None) -> list[nn.Parameter]:
    """Let the method draw a new subspace. Raises `TrainingFailedError` for weights that can no longer be factorised."""
    try:
        return method.resample(model, step, headroom_bytes=headroom_bytes)
    except ValueError as error:
        raise TrainingFailedError(f"at the resample before step {step + 1}: {error}") from error


def reset_optimizer_state(optimizer: torch.optim.Optimizer, replaced: list[nn.Parameter], reset: str) -> None:
    """Clear, in place, the optimizer's state of the ``replaced`` factors, or of everything."""
    for parameter in list(optimizer.state) if reset == "all" else replaced:
        for value in optimizer.state.get(parameter, {}).values():
            value.zero_()
