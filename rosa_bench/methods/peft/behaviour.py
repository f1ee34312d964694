"""What distinguishes PEFT's tuners for a run, as one table. Whatever is not named here behaves like LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Behaviour(NamedTuple):
    """How one tuner of PEFT behaves.

    keeps_function   whether attaching it leaves the model's function unchanged
    mergeable        whether PEFT can merge it into plain layers
    shares_alike     whether layers whose names end alike share parameters
    supports_graphs  whether a step through its layers can be captured as a CUDA graph
    refused          why it cannot be used here
    """

    keeps_function: bool = True
    mergeable: bool = True
    shares_alike: bool = False
    supports_graphs: bool = True
    refused: str | None = None


TASKS = "it needs the number of a task in every batch"
TOKENS = Behaviour(keeps_function=False, mergeable=False, refused="it puts vectors before the text")
TOKEN_TYPES = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")  # `rosa_bench.methods.peft.virtual_tokens` has them
BEHAVIOUR = {
    "ADALORA": Behaviour(refused="its schedule follows the length of the run; use method=adalora"),
    "ADAPTION_PROMPT": Behaviour(
        refused="it replaces whole attention layers; use method=p_tuning_v2, which also trains keys and values"
    ),
    "BEFT": Behaviour(mergeable=False),  # PEFT cannot merge it into a layer without bias
    "CARTRIDGE": Behaviour(
        refused="its keys and values stand for one long text that it has read; use method=prefix_tuning or p_tuning_v2"
    ),
    "CPT": Behaviour(refused="its vectors stand for example texts, with a loss of their own; use method=prompt_tuning"),
    "FOURIERFT": Behaviour(keeps_function=False, supports_graphs=False),
    "LILY": Behaviour(mergeable=False, shares_alike=True),
    "MULTITASK_PROMPT_TUNING": Behaviour(refused=f"{TASKS}; use method=prompt_tuning"),
    "POLY": Behaviour(refused=TASKS),
    "PREFIX_TUNING": TOKENS,
    "PROMPT_TUNING": TOKENS,
    "P_TUNING": TOKENS,
    "SHADOW": Behaviour(refused="it wraps whole blocks"),
    "SHIRA": Behaviour(supports_graphs=False),  # makes a sparse tensor in every step
    "UNILORA": Behaviour(keeps_function=False),
    "VBLORA": Behaviour(keeps_function=False),
    "WAVEFT": Behaviour(supports_graphs=False),
    "XLORA": Behaviour(refused="it loads other adapters"),
}
# Settings that need more than a run has, by type.
REFUSED = {
    "ADAMSS": {"use_asa": "it removes subspaces on a schedule of its own"},
    "LORA": {
        "alora_invocation_tokens": "it needs the place of these tokens in every text",
        "arrow_config": "it loads other adapters",
        "monteclora_config": "it needs a loss of its own",
        "target_parameters": "it tunes parameters, not layers; use method.targets or method.config.target_modules",
    },
}
# Starts of LoRA's factors, by ``init_lora_weights``, that need more than a run has.
STARTS = {
    "corda": "it needs covariances of inputs; use eva or lora_ga",
    "loftq": "it needs a quantised model",
}


def behaviour_of(peft_type: str | None, config: Mapping[str, Any]) -> Behaviour:
    """Return how a tuner with these settings behaves."""
    kind = str(peft_type)
    behaviour = BEHAVIOUR.get(kind, Behaviour())
    if _moved(kind, config):
        behaviour = behaviour._replace(keeps_function=False)
    if isinstance(start := config.get("init_lora_weights"), str) and start in STARTS:
        behaviour = behaviour._replace(refused=f"with init_lora_weights={start} {STARTS[start]}")
    for key, reason in REFUSED.get(kind, {}).items():
        if config.get(key) not in (None, False, []):
            behaviour = behaviour._replace(refused=f"with {key} {reason}")
    return behaviour


def _moved(kind: str, config: Mapping[str, Any]) -> bool:
    """Return whether these settings make a tuner start from another function than the model's."""
    starts = [config.get(key, True) for key in ("init_lora_weights", "init_weights", "init_ia3_weights")]
    special = {
        "ADAMSS": None in starts,
        "C3A": config.get("init_weights") is not True,
        "DEFT": config.get("para") is True,
        "HRA": config.get("r", 8) in range(1, 10**6, 2),  # only pairs of reflections cancel
        "LORA": config.get("kasa_config") is not None,  # KaSA leaves out each weight's smallest singular values
    }
    return False in starts or special.get(kind, False)  # False is PEFT's switch for tests: random factors
