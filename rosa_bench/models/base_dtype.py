"""Store the frozen weights of a model in bfloat16."""

import torch
from torch import nn

from rosa_bench.layers.linear import Linear, make_linear, weight_of
from rosa_bench.layers.narrow import NARROW
from rosa_bench.layers.surgery import name_matches, replace_module
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
        layer = make_linear(NARROW[type(plain)], weight_of(plain).detach().to(getattr(torch, dtype)), plain.bias)  # pyright: ignore[reportArgumentType]
        replace_module(model, name, layer.train(plain.training).requires_grad_(False))


@torch.no_grad()
def round_to(dtype: str, model: nn.Module, *, head: str) -> None:
    """Round the weights that `store_in` would store in ``dtype``, and keep them in float32."""
    for plain in narrowable(model, head=head).values():
        plain.weight.copy_(plain.weight.to(getattr(torch, dtype)))


def narrowable(model: nn.Module, *, head: str) -> dict[str, Linear]:
    """Return the linear layers outside the head, by name, except those whose weight another module shares."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in NARROW and uses[id(module.weight)] == 1 and not name_matches(rf"({head})(\..*)?", name)
    }  # pyright: ignore[reportReturnType]
