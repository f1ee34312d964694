"""Compute logits at chosen positions of each row only: the output layer of a large vocabulary is a costly one.

A batch names them in ``logits_to_keep``, (rows, positions), and its labels are those of these positions. transformers
5.24 takes such positions for most decoders. In older versions they are the same for all rows, and a hook gathers them.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.layers.structure.evaluating import evaluating

NAME = "logits_to_keep"


def keep_logits_by_row(model: PreTrainedModel) -> bool:
    """Make a causal language model accept ``logits_to_keep`` by row. Return whether it does.

    The model keeps its modules and their names; a copy of it accepts the same.
    """
    if NAME not in inspect.signature(model.forward).parameters:
        return False
    return takes_positions(model) or gather_positions(model)


@torch.inference_mode()
def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the model's logits are those of the given positions of each row."""
    tokens = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]], device=model.device)
    kept = torch.tensor([[0, 1, 3], [1, 2, 3]], device=model.device)
    with evaluating(model):
        found, every = model(tokens, **{NAME: kept}).logits, model(tokens).logits
    wanted = every.take_along_dim(kept[..., None], 1)
    return found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-4)


def gather_positions(model: PreTrainedModel) -> bool:
    """Gather the positions between the model's body and its output layer. Return whether that works."""
    gather = _Gather()
    hooks = [
        model.register_forward_pre_hook(gather.take, with_kwargs=True),
        model.base_model.register_forward_hook(gather.gather),
    ]
    works = takes_positions(model)
    if not works:
        for hook in hooks:
            hook.remove()
    return works


class _Gather:
    """Carries the positions of one forward pass from the model's arguments to the output of its body."""

    def __init__(self) -> None:
        self.positions: Tensor | None = None

    def take(self, _model: PreTrainedModel, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        kept = options.get(NAME)
        self.positions = kept if isinstance(kept, Tensor) and kept.ndim == 2 else None
        others = {name: value for name, value in options.items() if name != NAME}
        return arguments, options if self.positions is None else others

    def gather(self, _body: torch.nn.Module, _arguments: tuple, output: Any) -> Any:
        positions, self.positions = self.positions, None
        if positions is not None:
            output.last_hidden_state = output.last_hidden_state.take_along_dim(positions[..., None], 1)
        return output
