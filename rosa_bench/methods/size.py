"""How much a method trains and what its optimizer keeps, from the shapes of a model without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rosa_bench.methods.base import Method
from rosa_bench.optim.base import Optimizer
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class UnsizedError(UserError):
    """The method cannot be attached to a model without weights, so its size there is not known."""


class Size(NamedTuple):
    """Numbers of elements: of the plain model, of what trains at the start, and of the optimizer's state after a step.

    The state includes what the optimizer's groups hold beside the parameters, such as projectors. It does not count one
    step number per parameter.
    """

    total: int
    trainable: int
    optimizer_elements: int


def size_of(method: Method, model: nn.Module, optimizer: Optimizer) -> Size:
    """Attach the method to ``model``, which is on the meta device, and measure it by one step without numbers.

    Raises `UserError` if the method does not fit the model, and `UnsizedError` if it needs weights. Changes the model.
    """
    import torch

    total = sum(parameter.numel() for parameter in model.parameters())
    device = torch.device("meta")
    with device:
        model = method.attach(model)
    groups = method.parameter_groups(model)
    made = method.optimizer(groups, partial(optimizer.make, lr=0.0, device=device))
    first: dict[object, nn.Parameter] = {}
    alike: Counter[int] = Counter()
    for number, group in enumerate(groups):  # a state depends on the shape alone: the first of each makes a step
        for parameter in group["params"]:
            if parameter.requires_grad:
                alike[id(first.setdefault((number, parameter.shape, parameter.dtype), parameter))] += 1
    for parameter in first.values():
        parameter.grad = torch.empty_like(parameter)
    made.step()
    elements = elements_in_groups(made) + sum(
        alike[id(parameter)] * value.numel()
        for parameter, values in made.state.items()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.ndim
    )
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Size(total, trainable, elements)


def elements_in_groups(optimizer: torch.optim.Optimizer) -> int:
    """Return the number of elements of the tensors that an optimizer's groups hold beside the parameters."""
    import torch

    lists = (value for group in optimizer.param_groups for key, value in group.items() if key != "params")
    tensors = (it for value in lists if isinstance(value, list) for it in value if isinstance(it, torch.Tensor))
    return sum(tensor.numel() for tensor in tensors)


def saved_bytes(method: Method, model: nn.Module, plain: Iterable[Tensor] = ()) -> int:
    """Return the size of all tensors that training can change in a model with the method attached.

    That is what must be stored beside the base model. ``plain`` are buffers that the base model has itself.
    """
    own = set(map(id, plain))
    return sum(tensor.nbytes for tensor in method.state(model).values() if id(tensor) not in own)
