"""Turn declared or stored values into a transformers configuration, and bound the size of its model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook as on_module
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.device import machine_memory_bytes

# Keys of a stored configuration that would load something else or change how weights are read, and the labels, which
# are the task's.
IGNORED = (
    "transformers_weights", "quantization_config", "compression_config", "fusion_config", "distributed_config",
    "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation", "auto_map",
    "adapter_config", "name_or_path", "_name_or_path", "dtype", "torch_dtype", "_commit_hash", "num_labels",
    "id2label", "label2id", "problem_type", "return_dict", "use_return_dict", "torchscript",
)  # fmt: skip
QUANTISED = ("quantization_config", "compression_config")
LARGEST_COUNT = 10**6  # of layers, heads or experts, for which some configurations make lists
LARGEST_NUMBER = 2**31
MOST_MODULES = 20_000  # a model of 126 layers has about 2,000


def configuration(values: Mapping[str, Any], *, called: str) -> PretrainedConfig:
    """Return the configuration with these values. ``called`` names their place in messages.

    Raises `UserError` if transformers does not know the model or the values, or if they are of quantised weights.
    """
    kept = used(values)
    model_type = kept.pop("model_type", None)
    if any(values.get(key) for key in QUANTISED):
        raise UserError(f"{called} is of quantised weights; use a copy in float32, float16 or bfloat16")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        if values.get("auto_map"):
            raise UserError(f"{called} comes with Python code, which is never run; choose another model")
        raise UserError(f"{called} with model_type={model_type} is not valid: transformers has no such model")
    check_numbers(kept, called)
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(kept))
    except Exception as error:  # each architecture checks its values in its own way
        raise UserError(f"{called} with model_type={model_type} is not valid: {reason(error)}") from error


def used(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a stored configuration without the keys that are never followed."""
    return {key: value for key, value in values.items() if key not in IGNORED}


def check_numbers(values: Any, called: str, at: str = "") -> None:
    """Raise `UserError`, naming the key, for a number that no model has. Configurations make lists of such lengths."""
    inside = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        here = f"{at}.{key}".strip(".")
        if isinstance(value, int | float) and not isinstance(value, bool):
            counts = isinstance(key, str) and (key.startswith(("num_", "n_")) or key.endswith(("layers", "layer")))
            low, high = (0, LARGEST_COUNT) if counts else (-LARGEST_NUMBER, LARGEST_NUMBER)
            if not low <= value <= high:  # NaN fails too
                raise UserError(f"{called} has {here}={shown(value)}, which is out of range")
        check_numbers(value, called, here)


def without_weights(kind: type[PreTrainedModel], config: PretrainedConfig, *, called: str) -> PreTrainedModel:
    """Return the model of this configuration on the meta device, where its weights take no memory.

    Raises `UserError` if it cannot be built, or would not fit into this machine's memory; building ends there.
    """
    memory, count, size_bytes = machine_memory_bytes(), 0, 0

    def add_module(_module: nn.Module, _name: str, _child: nn.Module) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise UserError(f"{called} describes a model of more than {MOST_MODULES:,} modules; use a smaller one")

    def add_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal size_bytes
        size_bytes += 0 if parameter is None else 4 * parameter.numel()
        if size_bytes > memory:
            raise UserError(
                f"{called} describes a model of more than {size_bytes / 1e9:,.0f} GB in float32; "
                f"this machine has {memory / 1e9:,.0f} GB of memory"
            )

    hooks = [on_module(add_module), on_parameter(add_parameter)]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return kind(config)
    except UserError:
        raise
    except Exception as error:  # each architecture fails in its own way on sizes that do not go together
        raise UserError(f"{called} does not describe a working model: {reason(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()


def shown(value: float) -> str:
    """Return a number as text, without the many digits of a huge one."""
    try:
        return f"{value:.6g}"
    except OverflowError:
        return "a huge number"


def reason(error: BaseException) -> str:
    """Return an error's message on one line, or else its type."""
    return " ".join(str(error).split())[:300] or type(error).__name__
