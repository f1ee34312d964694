"""A model as it was before a method was attached, kept so that it can be put back to the bit.

No method is asked how to take itself out: ROSA's residuals no longer hold the weights, PiSSA has taken a part of them
away, and BitFit or full fine-tuning have written into them. So all values are copied, into the CPU's memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rosa_bench.adapters.undo import Structure
from rosa_bench.layers.structure.evaluating import take_modes
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import is_sharded


class KeptBase:
    """The structure of a plain model, and copies of its parameters and buffers. Make it before a method is attached."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.structure = Structure(model)
        self.values = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model)}
        self.parameters = [(name, parameter, parameter.requires_grad) for name, parameter in model.named_parameters()]
        self.devices = {name: parameter.device for name, parameter, _ in self.parameters}

    def attached(self, whole: nn.Module) -> None:
        """Note that a method has been attached. Weights that ``whole`` no longer holds stay on the CPU alone."""
        self.changed = self.structure.copies()
        held = {id(parameter) for parameter in whole.parameters()}
        for name, parameter, _ in self.parameters:
            if id(parameter) not in held:
                parameter.data = self.values[name]

    @torch.no_grad()
    def put_back(self, whole: nn.Module) -> nn.Module:
        """Undo in place what attaching, training and merging have changed, and return the plain model.

        It stays on its device, in training mode or not, and with hooks that were added since. Raises `UserError` if
        the model is sharded, or a parameter has another shape by now; nothing is changed then.
        """
        if any(is_sharded(parameter) for parameter in whole.parameters()):
            raise UserError("the model is sharded, so its base cannot be put back; load the plain model again")
        for name, parameter, _ in self.parameters:
            if parameter.shape != (was := self.values[name].shape):
                raise UserError(
                    f"{name} is {tuple(parameter.shape)}, and was {tuple(was)} when the method was attached, so the "
                    "model from before would not fit together; give it its earlier size first"
                )
        modules, held = set(whole.modules()), {id(parameter) for parameter in whole.parameters()}
        devices = {parameter.device for parameter in whole.parameters()}
        self.structure.undo(self.changed)
        take_modes(self.model, modules)
        only_device = devices.pop() if len(devices) == 1 else None
        for name, parameter, trained in self.parameters:
            place = parameter.device if id(parameter) in held else only_device or self.devices[name]
            parameter.grad = None
            parameter.data = self.values[name].to(place)
            parameter.requires_grad_(trained)
        for name, buffer in self.model.named_buffers():
            if name in self.values:
                buffer.data = self.values[name].to(buffer.device)
        return self.model


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers with their names, those that are not saved among them."""
    yield from model.named_parameters()
    yield from model.named_buffers()
