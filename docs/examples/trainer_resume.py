"""ROSA in Hugging Face's Trainer, stopped in the middle and resumed: the end is the same to the bit.

    python docs/examples/trainer_resume.py

Needs accelerate: pip install 'rosa-bench[trainer]'. Downloads nothing. TRL's SFTTrainer takes the callback too.
"""

import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import rosa_bench
from rosa_bench.integrations.trainer import RosaCallback


class StopAfter(TrainerCallback):
    """Saves and stops after a step, as an interrupted job would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Ask Trainer to save and to stop."""
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def train(folder: Path, *callbacks: TrainerCallback, resume: bool = False) -> dict[str, torch.Tensor]:
    """Train a small encoder, and return its trained tensors."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "roberta", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=64
    )
    attached = rosa_bench.attach(
        AutoModelForSequenceClassification.from_config(config), "rosa", rank=4, resample_every=6, resample_unit="steps"
    )
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(3, 64, (64, 12), generator=generator)
    rows = [{"input_ids": text, "labels": int(text[0] > text[1])} for text in texts]
    arguments = TrainingArguments(
        str(folder), num_train_epochs=3, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=1e-2, warmup_steps=2, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=attached.model,
        args=arguments,
        train_dataset=rows,  # pyrefly: ignore[bad-argument-type] - a list is enough
        callbacks=[RosaCallback(attached), *callbacks],
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-10") if resume else None)
    print(f"{folder.name}: stopped after step {trainer.state.global_step} of {trainer.state.max_steps}")
    return attached.state_dict()


def main() -> None:
    """Compare an uninterrupted training with one that was stopped after step 10 and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        expected = train(Path(folder) / "whole")
        train(Path(folder) / "parts", StopAfter(10))
        found = train(Path(folder) / "parts", resume=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    print(f"all {len(expected)} tensors are equal, to the bit")


if __name__ == "__main__":
    main()
