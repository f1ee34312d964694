"""The one training loop. It knows methods by their contract, models by Hugging Face's, and no one's name."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rosa_bench.data.batches import Batch, Batches, parts, to_device
from rosa_bench.measure import Meter
from rosa_bench.methods.base import Method
from rosa_bench.progress import TrainingProgress

Scores = dict[str, float]


class TrainingFailedError(RuntimeError):
    """The run cannot go on: the loss is no number any more. The message names the step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is optimised. Durations are in optimizer steps; ``accumulate`` is how many parts a batch is split into.

    ``reset``: whose optimizer state a resample clears: that of the replaced ``factors``, or ``all``.
    """

    lr: float
    epochs: int
    warmup_steps: int
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float | None
    accumulate: int
    reset: str


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: mean training loss, scores on the selection data, and the time since the start."""

    train_loss: float
    scores: Scores
    time_s: float


def fit(
    model: nn.Module,
    method: Method,
    batches: Batches,
    *,
    recipe: Recipe,
    evaluate: Callable[[], Scores],
    autocast: Callable[[], AbstractContextManager],
    meter: Meter,
    end_epoch: Callable[[int, Epoch], None] = lambda _number, _epoch: None,
) -> list[Epoch]:
    """Train ``model``, to which ``method`` is attached, and evaluate it after every epoch.

    The model returns its loss when given labels, as Hugging Face's do. Raises `TrainingFailedError` when a loss is not
    finite.
    """
    device, steps_per_epoch = meter.device, len(batches)
    total = recipe.epochs * steps_per_epoch
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True
    )
    losses = torch.zeros(steps_per_epoch, device=device)  # read seldom: reading makes the host wait for the device
    history: list[Epoch] = []
    started = time.perf_counter()
    progress = TrainingProgress(epochs=recipe.epochs, steps_per_epoch=steps_per_epoch, batch_size=batches.batch_size)
    with progress:
        for epoch in range(recipe.epochs):
            model.train()
            with meter.phase("train"):
                for index, batch in enumerate(batches.epoch(epoch)):
                    step = epoch * steps_per_epoch + index
                    if method.is_due(step, steps_per_epoch):
                        checked(losses[:index], first_step=step - index)
                        with meter.phase("resample"):
                            forget(optimizer, resample(model, method, step), recipe.reset)
                    lr = recipe.lr * lr_at(step, total, recipe.warmup_steps)
                    for group in optimizer.param_groups:
                        group["lr"] = lr

                    losses[index] = backward(model, to_device(batch, device), autocast, accumulate=recipe.accumulate)
                    if recipe.clip_norm is not None:
                        nn.utils.clip_grad_norm_(trainable, recipe.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

                    if progress.due():
                        loss = checked(losses[: index + 1], first_step=step - index)[-1]
                        progress.show(step + 1, loss=loss, lr=lr)
                mean_loss = math.fsum(checked(losses, first_step=epoch * steps_per_epoch)) / steps_per_epoch
            with meter.phase("evaluate"):
                scores = evaluate()
            if not math.isfinite(scores["loss"]):
                raise TrainingFailedError(f"the evaluation loss is {scores['loss']} after epoch {epoch + 1}")
            history.append(Epoch(mean_loss, scores, time.perf_counter() - started))
            progress.end_epoch(epoch, loss=mean_loss, scores=scores, seconds=history[-1].time_s)
            end_epoch(epoch, history[-1])
    return history


def backward(
    model: nn.Module, batch: Batch, autocast: Callable[[], AbstractContextManager], *, accumulate: int = 1
) -> Tensor:
    """Add the gradient of the batch's mean loss to the parameters, part by part, and return that loss, detached."""
    total = batch["labels"].new_zeros((), dtype=torch.float32)
    for part in parts(batch, accumulate) if accumulate > 1 else (batch,):
        with autocast():
            loss = model(**part).loss * (len(part["labels"]) / len(batch["labels"]))
        loss.backward()
        total += loss.detach()
    return total


def resample(model: nn.Module, method: Method, step: int) -> list[nn.Parameter]:
    """Let the method draw a new subspace. Raises `TrainingFailedError` for weights that can no longer be factorised."""
    try:
        return method.resample(model, step)
    except ValueError as error:
        raise TrainingFailedError(f"at the resample before step {step + 1}: {error}") from error


def lr_at(step: int, total: int, warmup_steps: int) -> float:
    """The learning rate of a step, as a fraction of the peak: up in a line over the warm-up, then down in one to 0.

    A pure function of the step: nothing has to be rebuilt when an optimizer's state is cleared, or a run resumed.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return (total - step) / max(1, total - warmup_steps)


def forget(optimizer: torch.optim.Optimizer, replaced: list[nn.Parameter], reset: str) -> None:
    """Clear, in place, the optimizer's state of the ``replaced`` factors, or of everything."""
    for parameter in list(optimizer.state) if reset == "all" else replaced:
        for value in optimizer.state.get(parameter, {}).values():
            value.zero_()


def checked(losses: Tensor, *, first_step: int) -> list[float]:
    """The losses as numbers. Raises `TrainingFailedError` naming the first step whose loss is not finite."""
    values = losses.tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            raise TrainingFailedError(f"the training loss is {value} at step {first_step + offset + 1}")
    return values
