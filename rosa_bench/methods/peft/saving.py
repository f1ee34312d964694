"""Write an adapter that cannot be merged, in the files that Hugging Face PEFT loads onto the base model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.methods.peft.config import refused_in_one_line, tuner_class
from rosa_bench.methods.peft.files import TENSORS, WITH_TOKENS, WRAPPED
from rosa_bench.methods.peft.tuner import ADAPTER, tuned_layers
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from rosa_bench.methods.peft.tuner import PeftTuner
    from rosa_bench.methods.peft.virtual_tokens import VirtualTokenMethod

REMEDY = "PEFT could not load the adapter onto this model; use save_model=false, or a tuner that can be merged, as LORA"


def save_adapter(method: PeftTuner, model: nn.Module, folder: Path) -> None:
    """Write the adapter of a tuner of layers."""
    layers = dict(tuned_layers(model))
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for inner in layer.trained:
            outer = inner.replace(f".{ADAPTER}", "")
            tensors[f"{WRAPPED}.{name}.{outer}"] = layer.tuned.get_parameter(inner)
        if method.train_biases and layer.plain_bias is not None:
            tensors[f"{WRAPPED}.{name}.base_layer.bias"] = layer.plain_bias
    _write(method.configuration(model, layers), tensors, model, folder, head=method.head, wrapped=WRAPPED)


def check_loads(method: PeftTuner, model: nn.Module) -> None:
    """Raise `UserError` unless PEFT itself can put its layers where the method puts them in a plain model.

    It does not tune a ``Conv1D`` with every tuner, and has no layers for the blocks of a split one.
    """
    import torch

    plain = without_weights(model)
    names = method.split(without_weights(model), method.target_names(model))
    with refused_in_one_line(f"save_model=true: {REMEDY}"), torch.device("meta"):
        tuner_class(method.peft_type)(plain, method.configuration(plain, names), ADAPTER)
    known = dict(model.named_modules())
    if others := [name for name in names if name not in known]:
        raise UserError(f"save_model=true: {REMEDY}: the model that is loaded has no {others[0]} of its own")


def without_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model with its parameters on the meta device. None of them is copied."""
    from torch import nn

    return copy.deepcopy(model, {id(it): nn.Parameter(it.detach().to("meta")) for it in model.parameters()})


def save_vectors(method: VirtualTokenMethod, model: nn.Module, folder: Path) -> None:
    """Write virtual tokens as their encoder has made them. As PEFT does, the encoder itself is left out."""
    import torch

    from rosa_bench.layers.prompts.virtual_tokens import NAME
    from rosa_bench.layers.structure.evaluating import evaluating
    from rosa_bench.methods.peft.virtual_tokens import is_decoder

    config: Any = method.configuration(model)
    config.task_type = "CAUSAL_LM" if is_decoder(model) else "SEQ_CLS"
    tokens: Any = model.get_submodule(NAME)
    with torch.no_grad(), evaluating(tokens):
        vectors = tokens.vectors()
    _write(config, {"prompt_embeddings": vectors}, model, folder, head=method.head, wrapped=WITH_TOKENS)


def _write(
    config: Any, tensors: Mapping[str, Tensor], model: nn.Module, folder: Path, *, head: str, wrapped: str
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for ``PeftModel.from_pretrained``.

    The head is saved whole, as one of PEFT's ``modules_to_save``, whether or not it trains.
    """
    from safetensors.torch import save_file

    heads = [name for name, _ in model.named_modules() if name_matches(head, name)]
    config.modules_to_save = heads or None
    of_heads = {
        f"{wrapped}.{name}.{inner}": tensor
        for name in heads
        for inner, tensor in model.get_submodule(name).state_dict().items()
    }
    every = {**tensors, **of_heads}
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in every.items()},
        folder / TENSORS,
    )
    config.save_pretrained(str(folder))
