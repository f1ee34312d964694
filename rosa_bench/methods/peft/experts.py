"""Layers that Hugging Face PEFT takes for experts.

Once, transformers kept each expert's matrices in layers of their own. It stacks them in one tensor now, and PEFT turns
adapters of those layers into adapters of that tensor. It knows them by the ends of their names, which layers of a
shared expert or of a block without experts have too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

STACKED = ("gate_up_proj", "down_proj")  # names of the stacked tensors
SEPARATE = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def taken_for_experts(model: nn.Module, names: Iterable[str]) -> str | None:
    """Return the first of the named layers that PEFT's LoRA takes for experts of the model, or None."""
    ends = {name.rpartition(".")[2] for name, parameter in model.named_parameters() if parameter.ndim == 3}
    if not ends.intersection(STACKED):
        return None
    return next((name for name in names if name.rpartition(".")[2] in SEPARATE), None)
