"""Find a model's linear layers and convolutions, replace them with adapters, and restore them."""

import re
from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn

from rosa_bench.layers.adapter import Adapter, adapters
from rosa_bench.layers.structure.linear import (
    CONVOLUTION_TYPES,
    LINEAR_TYPES,
    Convolution,
    Linear,
    SplitLinear,
    peculiarity,
    weight_of,
)
from rosa_bench.system.errors import UserError

SEALED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # they may read their layers' weights, and not call them


def replace_linears(
    model: nn.Module, names: list[str], make: Callable[[Linear], Adapter] | Callable[[Linear | Convolution], Adapter]
) -> None:
    """Replace each named layer with ``make(layer)``. Raises `UserError` if that would change the model's function."""
    check_layers(model, names)
    for name in names:
        untie(model, name)
        replace_module(model, name, make(model.get_submodule(name)))  # pyrefly: ignore[bad-argument-type]


def check_layers(model: nn.Module, names: list[str]) -> None:
    """Raise `UserError` unless a layer with the same weight and bias computes what each named layer does."""
    modules = list(model.modules())
    places = Counter(id(child) for module in modules for child in module._modules.values())
    if getattr(getattr(model, "config", None), "rescale_every", 0):
        raise UserError(
            "in evaluation this model divides its weights in place; set its config.rescale_every to 0 first"
        )
    sealed = {id(inner): type(it).__name__ for it in modules if isinstance(it, SEALED) for inner in it.modules()}
    for name in names:
        plain = model.get_submodule(name)
        if plain is model:
            raise UserError("the model is itself the layer to adapt; put it into a module, such as torch.nn.Sequential")
        if not isinstance(plain, (*LINEAR_TYPES, *CONVOLUTION_TYPES)):
            continue
        why = peculiarity(plain)
        if id(plain) in sealed:
            why = f"torch.nn.{sealed[id(plain)]} reads its weight without calling it; choose other layers with targets="
        elif places[id(plain)] > 1:
            why = "the model has it in several places; choose other layers with targets=, or give each place its own"
        if why:
            raise UserError(f"{name} cannot be adapted: {why}")


def restore_linears(model: nn.Module) -> None:
    """Turn every adapter in ``model`` back into a plain layer with the same function, and join split layers."""
    for name, adapter in list(adapters(model)):
        replace_module(model, name, adapter.to_plain())
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitLinear):
            replace_module(model, name, module.joined())


def split_linear(model: nn.Module, name: str, count: int) -> list[str]:
    """Split a linear layer's outputs into ``count`` equal layers, and return their names."""
    plain = model.get_submodule(name)
    rows = weight_of(plain).shape[0]  # pyrefly: ignore[bad-argument-type]
    if rows % count:
        raise UserError(f"{name} has {rows} outputs, which cannot be split into {count} equal blocks")
    replace_module(model, name, SplitLinear(plain, count))  # pyrefly: ignore[bad-argument-type]
    return [f"{name}.blocks.{number}" for number in range(count)]


def untie(model: nn.Module, name: str) -> None:
    """Give a linear layer its own weight if it shares one, as a language model's head does with the input embedding.

    Otherwise its replacement would change the input embedding too, or lose its own weight when saved.
    """
    plain = model.get_submodule(name)
    if _uses(model, plain.weight) <= 1:  # pyrefly: ignore[bad-argument-type] # 0 if the weight is quantised
        return
    plain.weight = nn.Parameter(plain.weight.detach().clone(), requires_grad=plain.weight.requires_grad)  # pyrefly: ignore[bad-argument-type, not-callable]
    if hasattr(model, "config"):  # a saved model is loaded according to it
        model.config.tie_word_embeddings = False  # pyrefly: ignore[bad-argument-type, missing-attribute]


def _uses(model: nn.Module, weight: Tensor) -> int:
    """Count the places of a weight in a model. ``named_parameters`` takes many times as long."""
    count, left = 0, [model]
    while left:
        module = left.pop()
        for parameter in module._parameters.values():
            count += parameter is weight
        left += [child for child in module._modules.values() if child is not None]
    return count


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where the model has the module with this dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def linear_names(model: nn.Module, pattern: str, *, convolutions: bool = False) -> list[str]:
    """Return the linear layers, and perhaps convolutions, whose dotted name ends in a match of ``pattern``, in order.

    Raises `UserError` if there are none, and lists the kinds of names that exist.
    """
    kinds = (*LINEAR_TYPES, *CONVOLUTION_TYPES) if convolutions else LINEAR_TYPES
    linears = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    found = [name for name in linears if name_matches(pattern, name)]
    if not found:
        shown = sorted({kind(name) for name in linears})
        raise UserError(
            f"method.targets={pattern} matches no linear layer (single quotes keep a shell from changing a regular "
            f"expression); the layers are: {', '.join(shown)}"
        )
    return found


def kind(name: str, *, last: bool = False) -> str:
    """Return a layer's name with ``*`` for the numbers of the layers above it, in which those of a stack differ.

    With ``last``, its own number is left out too.

    >>> kind("mlp.3.in.0"), kind("mlp.3.in.0", last=True)
    ('mlp.*.in.0', 'mlp.*.in.*')
    """
    return re.sub(rf"(?<=\.)\d+(?=\.{'|$' if last else ''})", "*", name)


def left_out(model: nn.Module, names: list[str]) -> list[str]:
    """Return the layers of the same kind as one of ``names``, in other blocks, that are not among them."""
    kinds, chosen = {kind(name) for name in names}, set(names)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LINEAR_TYPES) and name not in chosen and kind(name) in kinds
    ]


def name_matches(pattern: str, name: str) -> bool:
    """Return whether ``name``, or the part after one of its dots, fully matches the regular expression ``pattern``."""
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) is not None
