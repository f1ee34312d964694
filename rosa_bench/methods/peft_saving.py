"""Write an adapter that cannot be merged, in the files that Hugging Face PEFT loads onto the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rosa_bench.layers.surgery import name_matches
from rosa_bench.methods.peft_tuner import ADAPTER, tuned_layers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from rosa_bench.methods.peft_tuner import PeftTuner

WRAPPED = "base_model.model"  # what PEFT calls the model that it wraps


def save_adapter(method: PeftTuner, model: nn.Module, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for ``PeftModel.from_pretrained``.

    The head is saved whole, as one of PEFT's ``modules_to_save``, whether or not it trains.
    """
    from safetensors.torch import save_file

    layers = dict(tuned_layers(model))
    config = method.configuration(layers)
    heads = [name for name, _ in model.named_modules() if name_matches(method.head, name)]
    config.modules_to_save = heads or None  # pyright: ignore[reportAttributeAccessIssue]
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for inner in layer.trained:
            outer = inner.replace(f".{ADAPTER}", "")
            tensors[f"{WRAPPED}.{name}.{outer}"] = layer.tuned.get_parameter(inner)
        if method.train_biases and layer.plain_bias is not None:
            tensors[f"{WRAPPED}.{name}.base_layer.bias"] = layer.plain_bias
    for head in heads:
        own = model.get_submodule(head).state_dict()
        tensors |= {f"{WRAPPED}.{head}.{name}": tensor for name, tensor in own.items()}
    save_file(
        {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    config.save_pretrained(str(folder))
