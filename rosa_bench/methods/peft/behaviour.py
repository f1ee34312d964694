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


PROMPTS = "it changes inputs, not layers; use method=prompt_tuning, p_tuning or prefix_tuning, or a tuner of layers"
TOKENS = Behaviour(keeps_function=False, mergeable=False, refused=PROMPTS)
TOKEN_TYPES = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")  # `rosa_bench.methods.peft.virtual_tokens` has them
BEHAVIOUR = {
    "ADALORA": Behaviour(refused="its schedule follows the length of the run; use method=adalora"),
    "ADAPTION_PROMPT": Behaviour(refused=PROMPTS),
    "BEFT": Behaviour(mergeable=False),  # PEFT cannot merge it into a layer without bias
    "C3A": Behaviour(keeps_function=False),
    "CARTRIDGE": Behaviour(refused=PROMPTS),
    "CPT": Behaviour(refused=PROMPTS),
    "FOURIERFT": Behaviour(keeps_function=False, supports_graphs=False),
    "LILY": Behaviour(mergeable=False),
    "MULTITASK_PROMPT_TUNING": Behaviour(refused=PROMPTS),
    "POLY": Behaviour(refused="it needs the number of a task in every batch"),
    "PREFIX_TUNING": TOKENS,
    "PROMPT_TUNING": TOKENS,
    "P_TUNING": TOKENS,
    "SHADOW": Behaviour(refused="it wraps whole blocks"),
    "SHIRA": Behaviour(supports_graphs=False),  # makes a sparse tensor in every step
    "TRAINABLE_TOKENS": Behaviour(refused="it tunes embeddings, which a decoder's output layer shares"),
    "UNILORA": Behaviour(keeps_function=False),
    "VBLORA": Behaviour(keeps_function=False),
    "WAVEFT": Behaviour(supports_graphs=False),
    "XLORA": Behaviour(refused="it loads other adapters"),
}
# Starts of LoRA's factors, by ``init_lora_weights``, that need more than a run has.
STARTS = {
    "corda": "it needs covariances of inputs; use eva or lora_ga",
    "loftq": "the model is not quantised",
}


def behaviour_of(peft_type: str | None, config: Mapping[str, Any]) -> Behaviour:
    """Return how a tuner with these settings behaves."""
    behaviour = BEHAVIOUR.get(str(peft_type), Behaviour())
    start = config.get("init_lora_weights", config.get("init_weights", True))
    if start is False:  # PEFT's switch for tests: random factors instead of a start at the model's function
        behaviour = behaviour._replace(keeps_function=False)
    if isinstance(start, str) and start in STARTS:
        behaviour = behaviour._replace(refused=f"of its start {start}, {STARTS[start]}")
    return behaviour
