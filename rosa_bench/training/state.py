"""The state of training between two steps, and how to save and restore it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.methods.base import Changed, Groups, Method, RunLength
from rosa_bench.optim import moments
from rosa_bench.optim.base import Optimizer, ParameterGroup
from rosa_bench.optim.schedule import lr_at
from rosa_bench.system.tensors import collected, put, sharded_like
from rosa_bench.training.checkpoint import Snapshot, joined, random_state, restore_random_state

Scores = dict[str, float]


class TrainingFailedError(RuntimeError):
    """The run cannot continue, for example because the loss is NaN. The message names the step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is optimised. Durations are in optimizer steps; a batch is split into ``accumulate`` parts.

    optimizer  the optimizer's settings, including the learning rate schedule and gradient clipping
    reset      which optimizer state to clear when the method replaces parameters: only theirs (``factors``) or ``all``
    phases     how many times the schedule is repeated, warm-up included. The steps must be a multiple of it
    """

    lr: float
    epochs: int
    warmup_steps: int
    optimizer: Optimizer
    accumulate: int
    reset: str
    phases: int = 1

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0. It depends on nothing else, so a resume restores it."""
        phase = self.epochs * steps_per_epoch // self.phases
        return self.lr * lr_at(step % phase, phase, self.warmup_steps, self.optimizer.schedule)


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch: mean training loss, scores on the selection data, and seconds since the start."""

    train_loss: float
    scores: Scores
    time_s: float


class Training:
    """The state of `fit` between two steps: everything that determines how it continues.

    step       number of optimizer steps made
    losses     losses of the current epoch so far, (steps per epoch), on the device
    history    finished epochs
    lr         learning rate of the latest step, before any group's ``lr_scale``
    resamples  how many draws the method has made: of a whole subspace, of one direction of every weight if they are
               drawn one at a time, of projectors, or of the blocks that train. The draw that training starts with does
               not count, except that of projectors
    stopped    why the training ends before its last epoch; None if it does not
    paused     why the run is to be put aside now, with a checkpoint from which it can continue; None if it is not
    """

    def __init__(self, model: nn.Module, method: Method, recipe: Recipe, *, steps_per_epoch: int, device: torch.device):
        self.model, self.method, self.recipe = model, method, recipe
        self.device, self.steps_per_epoch = device, steps_per_epoch
        configured = partial(recipe.optimizer.make, lr=recipe.lr, device=device)
        self.optimizer = method.optimizer(by_device(method.parameter_groups(model)), configured)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # groups may share one tensor, but each needs its own rate, at hand
                near = next((parameter.device for parameter in group["params"]), device)
                group["lr"] = group["lr"].to(near, copy=True)
        self.trainable = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.step = 0
        self.lr = recipe.lr
        self.resamples = 0
        self.stopped: str | None = None
        self.paused: str | None = None
        self.losses = torch.zeros(steps_per_epoch, device=device)  # read rarely: each read makes the host wait
        self.history: list[Epoch] = []
        self._started = time.perf_counter()

    @property
    def length(self) -> RunLength:
        """How long the run is."""
        return RunLength(self.steps_per_epoch, self.recipe.epochs)

    @property
    def index(self) -> int:
        """Number of steps made in the current epoch."""
        return self.step - len(self.history) * self.steps_per_epoch

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, excluding the time between an interruption and the resume."""
        return time.perf_counter() - self._started

    def stop(self, reason: str) -> None:
        """End the training after the current epoch. Has no effect in the last one."""
        if self.step < self.recipe.epochs * self.steps_per_epoch:
            self.stopped = reason

    def pause(self, reason: str) -> None:
        """Put the run aside, with a checkpoint, at the hook point at which this is called. It can be resumed exactly.

        Call it after a step or an epoch. It has no effect outside of a run that saves checkpoints.
        """
        self.paused = reason

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step, multiplied by each group's ``lr_scale``."""
        self.lr = lr
        for group in self.optimizer.param_groups:
            set_group_lr(group, lr * group.get("lr_scale", 1.0))

    def follow(self, changed: Changed) -> None:
        """Update the optimizer to match a change that the method made."""
        follow(self.optimizer, changed, trainable=self.trainable, reset=self.recipe.reset)
        self.resamples += changed.draws

    def checked_losses(self) -> list[float]:
        """Return the epoch's losses so far. Raises `TrainingFailedError`, naming the step, if one is not finite."""
        return checked(self.losses[: self.index], first_step=self.step - self.index)

    @property
    def state(self) -> Snapshot:
        """The full state, as stored in a checkpoint."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        optimizer = {
            f"optimizer.{key}.{names[parameter]}": collected(value)
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
        }
        weights = {
            f"model.{name}": collected(tensor.detach()) for name, tensor in self.method.state(self.model).items()
        }
        own = {
            "step": self.step,
            "history": [asdict(epoch) for epoch in self.history],
            "elapsed_s": self.elapsed_s,
            "resamples": self.resamples,
            "stopped": self.stopped,
            "frozen": [names[parameter] for parameter in self.trainable if not parameter.requires_grad],
        }
        generators = joined(random=random_state(self.device))
        return Snapshot(
            {**weights, **optimizer, "losses": self.losses, **generators.tensors}, {**own, **generators.values}
        )

    @state.setter
    def state(self, state: Snapshot) -> None:
        with torch.no_grad():
            for name, tensor in self.method.state(self.model).items():
                put(tensor, state.tensors[f"model.{name}"])
            self.losses.copy_(state.tensors["losses"])
        parameters = dict(self.model.named_parameters())
        for name, tensor in state.part("optimizer").tensors.items():
            key, _, parameter = name.partition(".")
            own = parameters[parameter]
            self.optimizer.state[own][key] = sharded_like(tensor.to(own.device, copy=True), own)  # steps write into it
        idle = {id(parameters[name]) for name in state.values["frozen"]}
        for parameter in self.trainable:
            parameter.requires_grad_(id(parameter) not in idle)
        restore_random_state(state.part("random"), self.device)
        self.step = state.values["step"]
        self.history = [Epoch(**epoch) for epoch in state.values["history"]]
        self.resamples = state.values["resamples"]
        self.stopped = state.values["stopped"]
        self._started = time.perf_counter() - state.values["elapsed_s"]


def by_device(groups: Groups) -> Groups:
    """Split each group whose parameters are on several devices into one for each.

    A list in a group has one item for each parameter, and is split like them. PyTorch's fused AdamW would copy a GPU's
    learning rate to the CPU without waiting for it, and read it too early.
    """
    found = list[ParameterGroup]()
    for group in groups:
        places: dict[torch.device, list[int]] = {}
        for place, parameter in enumerate(group["params"]):
            places.setdefault(parameter.device, []).append(place)
        found += [
            {key: [value[at] for at in part] if isinstance(value, list) else value for key, value in group.items()}
            for part in places.values()
        ] or [group]
    return found


def follow(
    optimizer: torch.optim.Optimizer, changed: Changed, *, trainable: Sequence[nn.Parameter], reset: str
) -> None:
    """Update an optimizer, in place, to match a change that a method made. ``reset`` is as in `Recipe`.

    If part of a parameter's state would be cleared, or all of it rotated, but it is not all moments of the parameter's
    shape, as in quantised or factored optimizers, all of it is reset.
    """
    if changed.retrain:
        for parameter in trainable:
            if not parameter.requires_grad:
                optimizer.state.pop(parameter, None)
                parameter.grad = None
    keeps = bool(changed.keep or changed.clear or changed.rotate)
    reset_optimizer_state(optimizer, changed.reset, "factors" if keeps else reset)
    for part in changed.clear:
        state = optimizer.state.get(part.parameter, {})
        if moments.can_clear(state, part.parameter.shape):
            moments.clear(state, dim=part.dim, index=part.place)
        else:
            reset_optimizer_state(optimizer, [part.parameter], "factors")
    for parameter, matrix, orthonormal in changed.rotate:
        state = optimizer.state.get(parameter, {})
        if moments.can_rotate(state, matrix):
            moments.rotate(state, matrix, orthonormal=orthonormal)
        else:
            reset_optimizer_state(optimizer, [parameter], "factors")


def reset_optimizer_state(optimizer: torch.optim.Optimizer, replaced: Sequence[nn.Parameter], reset: str) -> None:
    """Zero the optimizer's state in place, for the ``replaced`` parameters, or for all if ``reset`` is ``all``.

    A state that does not begin at zero, or is not all floating-point numbers, is dropped, and the optimizer makes it
    again.
    """
    for parameter in list(optimizer.state) if reset == "all" else replaced:
        state = optimizer.state.get(parameter, {})
        if moments.all_begin_at_zero(state):
            for value in state.values():
                value.zero_()
        else:
            del optimizer.state[parameter]


def set_group_lr(group: dict[str, Any], lr: float | Tensor) -> None:
    """Set the learning rate of an optimizer's group, in place if it is a tensor, as captured CUDA graphs need it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def checked(losses: Tensor, *, first_step: int) -> list[float]:
    """Return the losses as floats. Raises `TrainingFailedError`, naming the first step, if one is not finite."""
    values = losses.tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            raise TrainingFailedError(f"the training loss is {value} at step {first_step + offset + 1}")
    return values
