"""ROSA as a tuner of Hugging Face PEFT. Importing this module registers it.

    import rosa_bench.integrations.peft
    from peft import get_peft_model

    model = get_peft_model(model, rosa_bench.integrations.peft.RosaConfig(r=8, resample_every=500))
    for step in range(steps):
        model.resample_if_due(step, optimizer)
        ...  # an ordinary training step; in Trainer, add ResampleCallback() to its callbacks instead
    model.save_pretrained("adapter")

The folder holds an ordinary LoRA adapter, which PEFT loads without this package, and ``rosa_config.json``. With both,
``PeftModel.from_pretrained(base, "adapter", config=RosaConfig.from_pretrained("adapter"), is_trainable=True)`` goes on
training exactly. A state dict of the whole model is no checkpoint: its base weights hold what was merged so far.
"""

from importlib.util import find_spec

if find_spec("peft") is None:
    from rosa_bench.integrations.missing import MissingExtraError

    raise MissingExtraError("rosa_bench.integrations.peft needs the package peft: pip install 'rosa-bench[peft]'")

from rosa_bench.integrations.peft.callback import ResampleCallback
from rosa_bench.integrations.peft.config import RosaConfig
from rosa_bench.integrations.peft.layer import RosaLinear
from rosa_bench.integrations.peft.model import RosaModel
from rosa_bench.integrations.peft.register import register

register(RosaConfig, RosaModel)

__all__ = ["ResampleCallback", "RosaConfig", "RosaLinear", "RosaModel"]
