"""ROSA of PEFT in Hugging Face's Trainer: a training that is resumed ends like one that is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from rosa_bench.integrations.peft import ResampleCallback, RosaConfig, RosaLinear

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]


def rows() -> list[dict[str, Tensor]]:
    ids = torch.randint(5, 200, (32, 10), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": row, "labels": row} for row in ids]


class Stop(TrainerCallback):
    """Ends the training after a step, as an interruption would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, *given: Any, **_: Any) -> None:
        _, state, control = given
        control.should_training_stop = state.global_step == self.step


def test_a_resumed_training_ends_with_the_same_bits(tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    def trained(folder: str, *callbacks: TrainerCallback, resume: bool = False) -> Any:
        model: Any = get_peft_model(tiny_model("tiny_llama"), RosaConfig(r=2, resample_every=3, task_type="CAUSAL_LM"))
        arguments = TrainingArguments(
            str(tmp_path / folder), max_steps=8, save_steps=1, per_device_train_batch_size=4, learning_rate=1e-2,
            report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows(), callbacks=[ResampleCallback(), *callbacks])  # pyrefly: ignore[bad-argument-type]
        trainer.train(resume_from_checkpoint=resume)
        return model

    straight = trained("straight")
    trained("resumed", Stop(5))
    resumed = trained("resumed", resume=True)
    layers = [module for module in straight.modules() if isinstance(module, RosaLinear)]
    assert all(layer.draws == {"default": 2} for layer in layers)
    expected = dict(straight.named_parameters())
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0)
