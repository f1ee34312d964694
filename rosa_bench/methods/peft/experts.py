"""Layers that Hugging Face PEFT takes for experts.

Once, transformers kept each expert's matrices in layers of their own. It stacks them in one tensor now, and in models
whose checkpoints are still stored that way PEFT turns adapters of those layers into adapters of that tensor. It knows
them by the ends of their names, which layers of a shared expert or of a block without experts have too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

ENDS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})


def taken_for_experts(model: nn.Module, names: Iterable[str]) -> str | None:
    """Return the first of the named layers that PEFT's LoRA takes for experts of the model, or None."""
    ends = _ends_of_experts(model)
    return next((name for name in names if name.rpartition(".")[2] in ends), None)


def _ends_of_experts(model: nn.Module) -> frozenset[str]:
    """Return the ends of names by PEFT's own tables, or all that it knows for any stack of experts if it has none."""
    try:
        from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
    except ImportError:  # PEFT is not installed, or has other tables
        stacked = any(name.endswith("gate_up_proj") and it.ndim == 3 for name, it in model.named_parameters())
        return ENDS if stacked else frozenset()
    kind = str(getattr(getattr(model, "config", None), "model_type", None))
    return frozenset(_MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(kind, ""), ()))
