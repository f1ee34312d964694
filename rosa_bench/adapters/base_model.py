"""Recognise the model that an adapter belongs to, without hashing all of its weights."""

import hashlib
from typing import NamedTuple

from torch import Tensor, nn

from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.system.errors import UserError

SAMPLE = 64  # values of each tensor


class BaseModel(NamedTuple):
    """Digests of a plain model without its head: of names, shapes and types, and of some values of every tensor."""

    shapes: str
    values: str

    def check(self, other: "BaseModel", *, called: str) -> None:
        """Raise `UserError` unless ``other`` is the same model. ``called`` names the adapter in the message."""
        for what, ours, theirs in zip(("layers or types", "weights"), self, other, strict=True):
            if ours != theirs:
                raise UserError(
                    f"{called} is an adapter of another model, with other {what}; load it into the model that it was "
                    "trained on"
                )


def base_model(model: nn.Module, *, head: str) -> BaseModel:
    """Return the digests of a model before a method is attached. The head is left out, as it starts at random."""
    shapes, values = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name_matches(rf"({head})\..*", name):
            shapes.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            values.update(_sample(tensor))
    return BaseModel(shapes.hexdigest(), values.hexdigest())


def _sample(tensor: Tensor) -> bytes:
    """Return the bytes of evenly spaced values."""
    flat = tensor.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // SAMPLE)].cpu().contiguous()
    return some.double().numpy().tobytes()
