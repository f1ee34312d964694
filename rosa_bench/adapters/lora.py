"""What training has changed in a model, as a LoRA adapter: factors of each update, changes of biases, and the head.

The factors are LoRA's own where a layer knows them. Otherwise they are the singular vectors of the difference of the
merged weight and the weight before training, as many as exceed rounding error, so every method that can be merged has
an adapter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rosa_bench.layers.adapter import adapters
from rosa_bench.layers.exact import Update
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.layers.structure.linear import LINEAR_TYPES, Conv1D, weight_of
from rosa_bench.layers.structure.surgery import name_matches, untie
from rosa_bench.lowrank import merge
from rosa_bench.methods.base import Method
from rosa_bench.methods.peft.experts import taken_for_experts
from rosa_bench.system.errors import UserError
from rosa_bench.training.spectrum import numeric_rank


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """The changes of a model.

    updates     by layer: ``a`` (out x rank) is lora_B and ``b`` (rank x in) is lora_A, with scale 1
    biases      by layer, what was added to its bias
    head        the head's tensors by their names in the model, whole, because a head starts at random
    heads       names of the head's modules
    transposed  whether the layers store their weights as (in, out), as GPT-2's do
    """

    updates: dict[str, Update]
    biases: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    transposed: bool = False


class PlainWeights:
    """Copies of the linear layers of a model before training, on the CPU.

    Make it before a method is attached, and call `adapted` afterwards, which drops the copies that are not needed.
    """

    def __init__(self, model: nn.Module):
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, LINEAR_TYPES):
                self.weights[name] = weight_of(module).detach().to("cpu", copy=True)
                if module.bias is not None:
                    self.biases[name] = module.bias.detach().to("cpu", copy=True)

    def adapted(self, method: Method, model: nn.Module) -> None:
        """Keep the layers that an attached method adapts.

        Raises `UserError` if the method trains anything else that a LoRA adapter cannot hold.
        """
        layers = [name for name, _ in adapters(model)]
        for layer in layers:
            if not any(f"{layer}.".startswith(f"{name}.") for name in self.weights):
                raise UserError(
                    f"save_adapter=true is for linear layers, and {layer} is not one; choose others with targets="
                )
        changed = {name for name in self.weights if any(f"{layer}.".startswith(f"{name}.") for layer in layers)}
        self.weights = {name: self.weights[name] for name in self.weights if name in changed}
        self.biases = {name: self.biases[name] for name in self.biases if name in changed}
        if stacked := [name for name, weight in self.weights.items() if weight.ndim != 2]:
            raise UserError(f"save_adapter=true is for transformers, and {stacked[0]} is a stack of weights")
        if (taken := taken_for_experts(model, self.weights)) is not None:
            raise UserError(
                f"save_adapter=true: HF PEFT would add the adapter of {taken} to the model's experts; choose other "
                "layers with targets=, or use save_model=true"
            )
        held = {id(parameter) for _, layer in adapters(model) for parameter in layer.parameters()}
        held |= {id(parameter) for parameter in method.head_parameters(model)}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in held:
                raise UserError(
                    f"method={method.name} trains {name}, which a LoRA adapter cannot hold; use save_model=true "
                    "instead of save_adapter=true"
                )


def check_called(model: nn.Module, loss: Callable[[], Float[Tensor, ""]]) -> None:
    """Raise `UserError` if an adapter has a part in the ``loss`` of one row without being called, as in Mamba's mixers.

    Those read the weight of a layer, and HF PEFT adds an adapter only to the output of a layer that is called.
    """
    called = set[nn.Module]()
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.add(layer)) for _, layer in adapters(model)]
    try:
        with evaluating(model), torch.enable_grad():
            result = loss()
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in adapters(model):
        trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        if layer in called or not trained:
            continue
        gradients = torch.autograd.grad(result, trained, retain_graph=True, allow_unused=True)
        if any(gradient is not None for gradient in gradients):  # an expert may have no part in it
            raise UserError(
                f"save_adapter=true: the model reads the weight of {name} without calling the layer, so HF PEFT would "
                "leave its adapter out; choose other layers with targets=, or use save_model=true"
            )


@torch.no_grad()
def known_updates(model: nn.Module, before: PlainWeights) -> dict[str, Update]:
    """Return the updates that an attached model's layers hold as factors, by layer. Call it before merging.

    They are those of the layers whose residual is still the weight from before training, as LoRA's is, or never
    changes, as a quantised one.
    """
    layers = {name: layer for name, layer in adapters(model) if isinstance(layer, LowRankLinear)}
    found = {name: layer.update_since(before.weights[name]) for name, layer in layers.items() if name in before.weights}
    return {name: update for name, update in found.items() if update is not None}


@torch.no_grad()
def lora_adapter(
    before: PlainWeights, merged: nn.Module, *, head: str, known: Mapping[str, Update] | None = None
) -> LoraAdapter:
    """Return the changes of a merged model. ``head`` is the pattern of the head, ``known`` are factors by layer."""
    updates, biases, known = {}, {}, known or {}
    for name, weight in before.weights.items():
        module = merged.get_submodule(name)
        after = weight_of(module).detach().cpu()  # pyrefly: ignore[bad-argument-type]
        updates[name] = known[name] if name in known else difference(weight, after)
        change = module.bias.detach().cpu() - before.biases[name] if name in before.biases else torch.zeros(1)  # pyrefly: ignore[not-callable]
        if change.any():
            biases[name] = change
    heads = tuple(name for name, _ in merged.named_modules() if name_matches(head, name))
    return LoraAdapter(
        updates=updates,
        biases=biases,
        head={
            name: parameter.detach().cpu().clone()
            for name, parameter in merged.named_parameters()
            if any(name.startswith(f"{one}.") for one in heads)
        },
        heads=heads,
        transposed=all(isinstance(merged.get_submodule(name), Conv1D) for name in updates),
    )


def difference(before: Float[Tensor, "out in"], after: Float[Tensor, "out in"]) -> Update:
    """Return ``after - before`` as factors of the smallest rank that is exact up to the rounding of the weights."""
    left, values, right = torch.linalg.svd(after.double() - before.double(), full_matrices=False)
    rank = max(1, numeric_rank(values, after))
    roots = values[:rank].sqrt()
    a, b = left[:, :rank] * roots, roots.unsqueeze(-1) * right[:rank]
    return Update(a.to(after.dtype).contiguous(), b.to(after.dtype).contiguous())


@torch.no_grad()
def apply_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add the adapter to the weights of the plain model that it belongs to, in place.

    Raises `UserError` if it does not fit, before any weight is changed.
    """
    check_fits(model, adapter)
    for name, update in adapter.updates.items():
        untie(model, name)
        weight = weight_of(model.get_submodule(name))  # pyrefly: ignore[bad-argument-type]
        weight.copy_(merge(weight.contiguous(), update.a.to(weight), update.b.to(weight)))
    for name, change in adapter.biases.items():
        model.get_submodule(name).bias.add_(change)  # pyrefly: ignore[not-callable]
    for name, value in adapter.head.items():
        model.get_parameter(name).copy_(value)


def check_fits(model: nn.Module, adapter: LoraAdapter) -> None:
    """Raise `UserError` unless the model has the adapter's layers, biases and head, with the same shapes."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name, update in adapter.updates.items():
        wanted = (update.a.shape[0], update.b.shape[1])
        found = modules.get(name)
        if not isinstance(found, LINEAR_TYPES) or tuple(weight_of(found).shape) != wanted:
            raise UserError(f"this adapter is of another model: its {name} is a {wanted[0]} x {wanted[1]} weight")
    for name, change in adapter.biases.items():
        bias = getattr(modules.get(name), "bias", None)
        if bias is None or bias.shape != change.shape:
            raise UserError(f"this adapter is of another model: its bias of {name} is {tuple(change.shape)}")
    for name, value in adapter.head.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise UserError(f"this adapter is of another model: its {name} is {tuple(value.shape)}")
