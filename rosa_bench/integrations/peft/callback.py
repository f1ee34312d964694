"""ROSA's draws inside Hugging Face's Trainer, for a model of PEFT."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ResampleCallback(TrainerCallback):
    """Resamples before each optimizer step for which ``RosaConfig.resample_every`` says so.

    Trainer saves and loads the adapter by PEFT, so nothing else is needed for an exact resume.
    """

    def on_step_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 - Trainer's contract
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        optimizer = kwargs["optimizer"]
        kwargs["model"].resample_if_due(state.global_step, getattr(optimizer, "optimizer", optimizer))
