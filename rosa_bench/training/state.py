"""The one training loop. It knows methods by their contract, models by Hugging Face's, and no one's name."""

import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rosa_bench.training.checkpoint import Snapshot, joined, random_state, restore_random_state

Scores = dict[str, float]


class TrainingFailedError(RuntimeError):
    """The run cannot go on: the loss is no number any more. The message names the step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is optimised. Durations are in optimizer steps; ``accumulate`` is how many parts a batch is split into.

    schedule  of the learning rate after the warm-up, one of `rosa_bench.optim.schedule.SCHEDULES`
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


def checked(losses: Tensor, *, first_step: int) -> list[float]:
    """The losses as numbers. Raises `TrainingFailedError` naming the first step whose loss is not finite."""
    values = losses.tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            raise TrainingFailedError(f"the training loss is {value} at step {first_step + offset + 1}")
    return values
