"""Forgetting: the loss on another task's validation text, of the model before training and after it.

The text has the batch size and length of its own task's recipe, whatever those of the run are, so that runs compare.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from rosa_bench.config.composing.named_task import named_task
from rosa_bench.data.hub import fetch_rows
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.records.parts.measured import Forgetting
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.tasks.prepared import Evaluate, PreparedTask
from rosa_bench.training.checkpoint import random_state, restore_random_state


@dataclass(frozen=True)
class Measurement:
    """An evaluation on the validation text of ``task``, and the loss ``before`` training."""

    task: str
    evaluate: Evaluate
    before: float

    def after(self, *, selected: float, last: float) -> Forgetting:
        """Return what the record says, from the losses after training."""
        return Forgetting(task=self.task, before=self.before, selected=selected, last=last)


def measured_before(resolved: ResolvedRun, problem: PreparedTask) -> Measurement | None:
    """Measure the model before a method is attached to it. Returns None if the run does not ask for it.

    Leaves the model and every random generator as they are. Raises `UserError` if data are missing.
    """
    name = resolved.config.forgetting_on
    if name is None:
        return None
    assert problem.tokenizer is not None  # every causal model has one
    loaded = Loaded(problem.model, problem.tokenizer)
    found = named_task(name, key="forgetting_on", protocol=resolved.config.protocol.name)
    longest = max_input_length(loaded)
    context = replace(
        resolved.context,
        rows=fetch_rows(found.task, resolved.data_dir),
        batch_size=found.batch_size,
        max_length=min(found.max_length or longest, longest),
    )
    with undisturbed(problem.model, resolved.device):
        evaluate = found.task.validation_loss(context, loaded)
        return Measurement(name, evaluate, evaluate(problem.model).scores["loss"])


@contextmanager
def undisturbed(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Put the model's mode and the random generators back after the block."""
    state, training = random_state(device), model.training
    yield
    model.train(training)
    restore_random_state(state, device)
