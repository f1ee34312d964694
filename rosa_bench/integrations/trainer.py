"""Any method in Hugging Face's Trainer, and in those built on it such as TRL's SFTTrainer.

    attached = rosa_bench.attach(model, "rosa", rank=8, resample_every=100, resample_unit="steps")
    trainer = Trainer(model=attached.model, args=..., train_dataset=..., callbacks=[RosaCallback(attached)])
    trainer.train()
    attached.merge()

Trainer writes the layers of the method with the model into each of its checkpoints. The callback adds to
``trainer_state.json`` what method that was, and which of its parameters are frozen, and checks it at a resume. Draws
depend only on seed and step, so a resumed training ends as an uninterrupted one.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from rosa_bench.adapters.attached import Attached, deciding
from rosa_bench.methods.base import Method, RunLength
from rosa_bench.system.errors import UserError
from rosa_bench.training.checkpoint import Snapshot
from rosa_bench.training.state import set_group_lr


class _LossAskedError(Exception):
    """The method asks for the loss of the coming batch, which Trainer has not passed to the model yet."""


NAME = "RosaCallback"  # the key in trainer_state.json, which Trainer takes from the class


class RosaCallback(TrainerCallback, ExportableState):
    """Lets an attached method change the model when it is due, and the optimizer with it, also across a resume.

    Resamples come before the first backward pass of an optimizer step, also if gradients are accumulated. A method that
    warms up again after a resample gets its factor of the learning rate for the optimizer's step alone, so any schedule
    stays as it is. Penalties and clipping: a method's penalty adds to the gradient before Trainer clips it, while
    `Method.after_backward` sees the clipped gradient, because Trainer has no place between the two.
    """

    def __init__(self, attached: Attached):
        self.attached = attached
        self._rates: list[tuple[dict[str, Any], Any]] = []
        self._waiting: tuple[int, torch.optim.Optimizer] | None = None  # for a batch: the step, and its optimizer
        self._hooked = False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about the method, as JSON values. Trainer calls it at every save."""
        attached = self.attached
        values = {
            "method": deciding(attached.method),
            "model": attached.base._asdict(),
            "frozen": attached.frozen,
            "digest": _digest(attached),
        }
        return {"args": {}, "attributes": values}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "RosaCallback":  # noqa: ARG003 - Trainer's contract
        """Refuse: this callback belongs to a model, which Trainer does not hand over."""
        raise UserError("use restore_callback_states_from_checkpoint=False: RosaCallback restores its state by itself")

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check that the Trainer trains this model, and see to it that checkpoints of others are refused."""
        self._begin(kwargs.get("model"))

    def _begin(self, model: nn.Module | None) -> None:
        if model is not None and model is not self.attached.model:
            raise UserError("this RosaCallback is of another model; give Trainer the model that attached.model is")
        if self._hooked:
            return
        self._hooked = True
        self.attached.model.register_load_state_dict_pre_hook(self._check_checkpoint)
        self.attached.model.register_forward_pre_hook(self._on_batch, with_kwargs=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = _plain(kwargs["optimizer"])
        self._begin(kwargs.get("model"))  # Trainer.add_callback comes after its start
        self.attached.length = length_of(args, state, kwargs.get("train_dataloader"))
        self._check_optimizer(optimizer)
        self.attached.renew_groups(optimizer)  # the model may have moved since, and its projectors with it
        if state.global_step:
            self._resume(state.stateful_callbacks)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step, optimizer = state.global_step, _plain(kwargs["optimizer"])
        try:
            self.attached.before_step(step, optimizer, loss=_ask_for_loss)  # methods ask before they change anything
        except _LossAskedError:
            self._waiting = step, optimizer
        else:
            self.attached.add_penalty()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.attached.after_backward()
        factor = self.attached.lr_factor(state.global_step)
        if factor != 1:
            groups = _plain(kwargs["optimizer"]).param_groups
            self._rates = [(group, _copied(group["lr"])) for group in groups]
            for group in groups:
                set_group_lr(group, group["lr"] * factor)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for group, rate in self._rates:  # before the schedule, which may compute the next rate from this one
            set_group_lr(group, rate)
        self._rates = []

    def _on_batch(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let a method that has asked for the loss of the coming batch change the model, before its forward pass."""
        if self._waiting is None:
            return
        (step, optimizer), self._waiting = self._waiting, None
        self.attached.before_step(step, optimizer, loss=lambda: _loss(model(*args, **kwargs)))
        self.attached.add_penalty()

    def _check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UserError` if the method needs groups or an optimizer of its own, and Trainer made another."""
        attached, kind = self.attached, type(self.attached.method)
        attached.check_complete(optimizer)
        own = kind.optimizer is not Method.optimizer or kind.parameter_groups is not Method.parameter_groups
        given = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
        wanted = [[id(parameter) for parameter in group["params"]] for group in attached.parameter_groups()]
        if own and given != wanted:
            raise UserError(
                f"method={attached.method.name} has an optimizer or parameter groups of its own; use Trainer(..., "
                "optimizers=(attached.optimizer(lr=...), None))"
            )

    def _check_checkpoint(self, _module: nn.Module, state_dict: dict[str, Tensor], *_others: Any) -> None:
        """Raise `UserError` for weights without the method's layers, before Trainer loads part of them."""
        if not self.attached.is_attached:
            return
        stored = self.attached.model.state_dict().keys() - state_dict.keys()
        lacking = [name for name in self.attached.state_dict() if name in stored]
        if lacking:
            raise UserError(
                f"this checkpoint has no {lacking[0]}, so it was saved without method={self.attached.method.name}; "
                "resume from another one, or start again without resume_from_checkpoint"
            )

    def _resume(self, stored: Any) -> None:
        """Continue from the checkpoint that Trainer has loaded. Raises `UserError` if it is not one of this method."""
        found = stored.get(NAME) if isinstance(stored, dict) else None
        again = "resume from another one, or start again without resume_from_checkpoint"
        values, own = found.get("attributes") if isinstance(found, dict) else None, self.state()["attributes"]
        if not isinstance(values, dict) or values.keys() != own.keys() or not isinstance(values["method"], dict):
            raise UserError(f"this checkpoint lacks the state of {NAME}, so training was begun without it; {again}")
        differing = sorted(key for key, value in own["method"].items() if values["method"].get(key) != value)
        if differing:
            was = values["method"].get(differing[0])
            raise UserError(
                f"this checkpoint is of another method: {differing[0]}={was}, here {own['method'][differing[0]]}; "
                f"attach with the same settings, or {again}"
            )
        if values["model"] != own["model"]:
            raise UserError(f"this checkpoint was begun from another model; {again}")
        if values["digest"] != own["digest"]:
            raise UserError(f"this checkpoint's weights are not those that were saved with it; {again}")
        self.attached.check_frozen(values["frozen"], called="this checkpoint")
        self.attached.freeze(values["frozen"])


def length_of(args: TrainingArguments, state: TrainerState, batches: Any) -> RunLength:
    """Return the length of a training in optimizer steps."""
    try:
        count = len(batches)
    except TypeError:  # of unknown length: the whole training counts as one epoch
        return RunLength(state.max_steps, 1, state.max_steps)
    steps = max(1, -(-count // args.gradient_accumulation_steps))
    return RunLength(steps, math.ceil(state.max_steps / steps), state.max_steps)


def _digest(attached: Attached) -> str:
    return Snapshot(attached.state_dict(), {}).digest


def _loss(output: Any) -> Tensor:
    """Return the loss that a model has computed. Raises `UserError` if it has not."""
    loss = getattr(output, "loss", None)
    if loss is None:
        raise UserError(
            "this method asks for the gradient of the coming batch, and Trainer computes the loss outside the model; "
            "leave out label_smoothing_factor and compute_loss_func, or use another method"
        )
    return loss


def _ask_for_loss() -> Tensor:
    raise _LossAskedError


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer that accelerate wraps."""
    return getattr(optimizer, "optimizer", optimizer)


def _copied(rate: float | Tensor) -> float | Tensor:
    return rate.clone() if isinstance(rate, Tensor) else rate
