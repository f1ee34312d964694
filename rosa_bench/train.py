"""The one training loop. It knows methods by their contract, models by Hugging Face's, and no one's name."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rosa_bench.checkpoint import Snapshot, joined, random_state, restore_random_state
from rosa_bench.data.batches import Batch, Batches, parts, targets, to_device
from rosa_bench.graphs import Replay, plainly
from rosa_bench.measure import Meter
from rosa_bench.methods.base import Method
from rosa_bench.progress import TrainingProgress
from rosa_bench.schedule import lr_at

Scores = dict[str, float]


class TrainingFailedError(RuntimeError):
    """The run cannot go on: the loss is no number any more. The message names the step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is optimised. Durations are in optimizer steps; ``accumulate`` is how many parts a batch is split into.

    schedule  of the learning rate after the warm-up, one of `rosa_bench.schedule.SCHEDULES`
    reset     whose optimizer state a resample clears: that of the replaced ``factors``, or ``all``
    """

    lr: float
    epochs: int
    warmup_steps: int
    schedule: str
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


class Training:
    """Where `fit` stands between two steps, and all that decides how it goes on.

    step     optimizer steps made
    losses   (steps an epoch), on the device: those of the epoch that is not yet over
    history  of the epochs that are
    """

    def __init__(self, model: nn.Module, recipe: Recipe, *, steps_per_epoch: int, device: torch.device):
        self.model, self.device, self.steps_per_epoch = model, device, steps_per_epoch
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.trainable,
            torch.tensor(recipe.lr, device=device) if on_gpu else recipe.lr,  # there a captured step reads it anew
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self.step = 0
        self.losses = torch.zeros(steps_per_epoch, device=device)  # read seldom: reading makes the host wait
        self.history: list[Epoch] = []
        self._started = time.perf_counter()

    @property
    def index(self) -> int:
        """Steps made in the epoch that is not yet over."""
        return self.step - len(self.history) * self.steps_per_epoch

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, without those between breaking off and going on."""
        return time.perf_counter() - self._started

    def set_lr(self, lr: float) -> None:
        """Let the next step have this learning rate."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def checked_losses(self) -> list[float]:
        """The epoch's losses so far. Raises `TrainingFailedError` naming the first step whose loss is not finite."""
        return checked(self.losses[: self.index], first_step=self.step - self.index)

    @property
    def state(self) -> Snapshot:
        """Everything, as a checkpoint keeps it."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        moments = {
            f"optimizer.{key}.{names[parameter]}": value
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
        }
        weights = {f"model.{name}": tensor.detach() for name, tensor in changing_tensors(self.model).items()}
        own = {"step": self.step, "history": [asdict(epoch) for epoch in self.history], "elapsed_s": self.elapsed_s}
        generators = joined(random=random_state(self.device))
        return Snapshot(
            {**weights, **moments, "losses": self.losses, **generators.tensors}, {**own, **generators.values}
        )

    @state.setter
    def state(self, state: Snapshot) -> None:
        with torch.no_grad():
            for name, tensor in changing_tensors(self.model).items():
                tensor.copy_(state.tensors[f"model.{name}"])
            self.losses.copy_(state.tensors["losses"])
        parameters = dict(self.model.named_parameters())
        for name, tensor in state.part("optimizer").tensors.items():
            key, _, parameter = name.partition(".")
            self.optimizer.state[parameters[parameter]][key] = tensor.to(self.device)  # pyright: ignore[reportArgumentType]
        restore_random_state(state.part("random"), self.device)
        self.step = state.values["step"]
        self.history = [Epoch(**epoch) for epoch in state.values["history"]]
        self._started = time.perf_counter() - state.values["elapsed_s"]


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training can change: trained parameters, and buffers, among them the residuals that resampling moves."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def fit(
    model: nn.Module,
    method: Method,
    batches: Batches,
    *,
    recipe: Recipe,
    evaluate: Callable[[], Scores],
    autocast: Callable[[], AbstractContextManager],
    meter: Meter,
    replay: Replay = plainly,
    end_epoch: Callable[[int, Epoch], None] = lambda _number, _epoch: None,
    between: Callable[[Training], None] = lambda _training: None,
    start: Snapshot | None = None,
) -> list[Epoch]:
    """Train ``model``, to which ``method`` is attached, and evaluate it after every epoch.

    The model returns its loss when given labels, as Hugging Face's do. ``replay`` may make a step into one that does
    the same faster (`rosa_bench.graphs`). ``between`` is called after every step, and after every epoch once
    ``end_epoch`` was: it may save the training's state. ``start`` is such a state to go on from. Raises
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
                            replaced = resample(model, method, step, room_bytes=meter.room_bytes)
                            forget(training.optimizer, replaced, recipe.reset)
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


def resample(model: nn.Module, method: Method, step: int, *, room_bytes: int | None) -> list[nn.Parameter]:
    """Let the method draw a new subspace. Raises `TrainingFailedError` for weights that can no longer be factorised."""
    try:
        return method.resample(model, step, room_bytes=room_bytes)
    except ValueError as error:
        raise TrainingFailedError(f"at the resample before step {step + 1}: {error}") from error


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
