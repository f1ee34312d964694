"""Parameters of any module that are formed from a frozen weight and something small or sparse that trains.

A form is a module with ``forward(frozen) -> weight``. PyTorch's parametrizations call it whenever the module reads its
parameter, so every type of module can have one: linear layers, GPT-2's ``Conv1D``, embeddings and normalisation.
"""

from collections.abc import Mapping
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rosa_bench.system.errors import UserError

RESIZE = "resize_token_embeddings"  # of transformers' models


class Form(nn.Module):
    """Base class of the forms."""

    def forward(self, frozen: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the weight to compute with."""
        raise NotImplementedError


class ChosenEntries(Form):
    """Replaces the entries of a weight at ``indices``, counted in its flattened form, by values that train.

    An entry costs its value, gradient, two moments of AdamW and an index: 24 bytes in float32. The gradient of one
    whole weight exists at a time in the backward pass, until its chosen entries are gathered from it.
    """

    indices: Tensor

    def __init__(self, weight: Float[Tensor, "*shape"], indices: Int[Tensor, " chosen"]):
        super().__init__()
        self.register_buffer("indices", indices)
        self.values = nn.Parameter(weight.detach().flatten()[indices])

    def forward(self, frozen: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return frozen.flatten().index_copy(0, self.indices, self.values).view_as(frozen)

    def extra_repr(self) -> str:
        return f"chosen={len(self.indices)}"


def parametrise(model: nn.Module, forms: Mapping[nn.Parameter, Form]) -> None:
    """Compute each of these parameters by its form from now on. Modules that share a parameter share its form.

    The model's embeddings keep their size until `restore_parameters`: transformers would write into the formed weight,
    which is lost, and fail or go on with half of the model resized.
    """
    for module in list(model.modules()):
        if hasattr(module, RESIZE):
            vars(module)[RESIZE] = _refuse_to_resize
        for name, parameter in list(module.named_parameters(recurse=False)):
            if (form := forms.get(parameter)) is not None:
                parametrize.register_parametrization(module, name, form, unsafe=True)  # unsafe: without a trial pass


def formed(model: nn.Module) -> list[tuple[nn.Parameter, Form]]:
    """Return each frozen weight with its form, once, in the model's order."""
    found = {pair[1]: pair for module in model.modules() for pair in _own(module).values()}
    return list(found.values())


@torch.no_grad()
def restore_parameters(model: nn.Module) -> None:
    """Turn every formed parameter back into a plain one with the same value, in place."""
    for frozen, form in formed(model):
        frozen.copy_(form.eval()(frozen))
    for module in list(model.modules()):
        vars(module).pop(RESIZE, None)
        if own := _own(module):
            # PyTorch's function would remove the parameter from the class, which copies of the model share.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, (frozen, _) in own.items():
                module.register_parameter(name, frozen)


def _refuse_to_resize(*_: object, **__: object) -> NoReturn:
    raise UserError(
        "the embeddings cannot be resized, because the method attached to this model forms its weights from others; "
        "resize them before attaching, or merge first"
    )


def _own(module: nn.Module) -> dict[str, tuple[nn.Parameter, Form]]:
    """Return the module's own formed parameters by name: the frozen weight and the form."""
    if not parametrize.is_parametrized(module):
        return {}
    chains: nn.ModuleDict = module.parametrizations  # pyrefly: ignore[bad-assignment]
    return {name: (chain.original, chain[0]) for name, chain in chains.items()}  # pyrefly: ignore[bad-index, bad-return]
