"""What distinguishes PEFT's tuners for a run, as one table. Whatever is not named here behaves like LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Behaviour(NamedTuple):
    """How one tuner of PEFT behaves.

    keeps_function   whether attaching it leaves the model's function unchanged
    mergeable        whether PEFT can merge it into plain layers
    supports_graphs  whether a step through its layers can be captured as a CUDA graph
    refused          why it cannot be used here
    """

    keeps_function: bool = True
    mergeable: bool = True
    supports_graphs: bool = True
    refused: str | None = None


BEHAVIOUR: dict[str, Behaviour] = {}


def behaviour_of(peft_type: str | None, config: Mapping[str, Any]) -> Behaviour:  # noqa: ARG001
    """Return how a tuner with these settings behaves."""
    return BEHAVIOUR.get(str(peft_type), Behaviour())
