"""Register ROSA as a tuner of PEFT.

PEFT accepts a new tuner by `register_peft_method`, but only under a name in its enumeration of types, so the name is
added there first.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

NAME = "ROSA"


def rosa_type() -> PeftType:
    """Return PEFT's name for ROSA as a member of its enumeration, where it is added the first time."""
    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_ = member._value_ = NAME  # pyrefly: ignore[bad-assignment]
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
        PeftType._member_names_.append(NAME)
        type.__setattr__(PeftType, NAME, member)  # enumerations refuse the ordinary way
    return PeftType[NAME]


def register(config: type, model: type) -> None:
    """Register the tuner's classes, once. The adapter's tensors share LoRA's prefix."""
    if rosa_type() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=config, model_cls=model, prefix="lora_")
