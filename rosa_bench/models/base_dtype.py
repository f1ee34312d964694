"""Store the frozen weights of a model in bfloat16, or in 8 or 4 bits."""

import torch
from torch import nn

from rosa_bench.layers.storage.narrow import NARROW
from rosa_bench.layers.storage.quantised import KINDS, Quantised, QuantisedLinear
from rosa_bench.layers.structure.linear import Linear, make_linear, weight_of
from rosa_bench.layers.structure.surgery import name_matches, replace_module
from rosa_bench.system.errors import UserError


def store_in(dtype: str, model: nn.Module, *, head: str) -> None:
    """Store the weights of the linear layers outside the head in ``dtype``, in place: ``float32`` changes nothing.

    The head, biases, norms and embeddings stay in float32: they train, are small, or begin the sum that all blocks add
    to. Call it before a method is attached. Raises `UserError` if the model has no such layer.
    """
    if dtype == "float32":
        return
    found = narrowable(model, head=head)
    if not found:
        raise UserError(f"base_dtype={dtype} finds no linear layer of its own weight outside the head; use float32")
    for name, plain in found.items():
        replace_module(model, name, stored_in(dtype, plain).train(plain.training).requires_grad_(False))


def stored_in(dtype: str, plain: Linear) -> Linear:
    """Return a linear layer with its weight stored in ``dtype``, and the same bias."""
    if dtype in KINDS:
        return QuantisedLinear(Quantised(weight_of(plain), dtype), plain.bias, type(plain))
    return make_linear(NARROW[type(plain)], weight_of(plain).detach().to(getattr(torch, dtype)), plain.bias)


@torch.no_grad()
def round_to(dtype: str, model: nn.Module, *, head: str) -> None:
    """Round the weights that `store_in` would store in ``dtype``, and keep them in float32."""
    for plain in narrowable(model, head=head).values():
        weight_of(plain).copy_(weight_of(stored_in(dtype, plain)))


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Turn quantised layers into plain ones in float32, in the CPU's memory, so that the model can be saved."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantisedLinear):
            replace_module(model, name, make_linear(layer.wide_type, layer.weight.cpu(), layer.bias))


def narrowable(model: nn.Module, *, head: str) -> dict[str, Linear]:
    """Return the linear layers outside the head, by name, except those whose weight another module shares."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {  # pyrefly: ignore[bad-return]
        name: module
        for name, module in model.named_modules()
        if type(module) in NARROW and uses[id(module.weight)] == 1 and not name_matches(rf"({head})(\..*)?", name)
    }
