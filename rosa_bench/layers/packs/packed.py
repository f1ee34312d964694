"""Layers of a pack: they hold what trains in each of several runs, and multiply each run's rows by its own.

The rows of all runs lie one after another (`rosa_bench.layers.packs.by_run`). What trains gets a leading dimension, one
entry for each run, and the runs' own parameters become views of it. What is frozen is shared, and sees one large batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.packs.packed_low_rank import PackedLowRank
from rosa_bench.layers.packs.run_stacks import Stacks, per_run
from rosa_bench.layers.scaled import ScaledLinear
from rosa_bench.layers.structure.surgery import replace_module
from rosa_bench.system.errors import UserError


class UnpackableError(UserError):
    """A model or method has no packed form. Its runs can train one by one."""


class PackedLinear(nn.Module):
    """Linear layers of which the weight, the bias or both train, as in a head."""

    def __init__(self, layers: Sequence[nn.Linear | Conv1D], stacks: Stacks):
        super().__init__()
        self.count, self.transposed = len(layers), isinstance(layers[0], Conv1D)
        self.weight, self.bias = stacks([it.weight for it in layers]), stacks([it.bias for it in layers])

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        weight = self.weight.mT if self.transposed else self.weight
        y = per_run(x.reshape(self.count, -1, x.shape[-1]), weight, self.bias)
        return y.view(*x.shape[:-1], y.shape[-1])


class PackedScaled(nn.Module):
    """The scaled layers of (IA)^3 of all runs, over one shared weight."""

    def __init__(self, layers: Sequence[ScaledLinear], stacks: Stacks):
        super().__init__()
        self.count, self.side = len(layers), layers[0].side
        self.weight, self.factor = stacks([it.unscaled for it in layers]), stacks([it.factor for it in layers])
        self.bias = stacks([it.bias for it in layers])

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        rows, factor = x.reshape(self.count, -1, x.shape[-1]), self.factor.unsqueeze(1)
        if self.side == "input":
            y = per_run(rows * factor, self.weight, self.bias)
        else:
            y = per_run(rows, self.weight, self.bias)
            y = (y * factor).to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])


class OneByOne(nn.Module):
    """Any other layer that trains, such as an embedding: each run's own layer on its own rows, one after another."""

    def __init__(self, layers: Sequence[nn.Module], rows: "Rows"):
        super().__init__()
        self.layers, self.rows = nn.ModuleList(layers), rows

    def forward(self, x: Tensor) -> Tensor:
        count = len(self.layers)
        if len(x) == self.rows.total:
            return torch.cat([layer(part) for layer, part in zip(self.layers, x.chunk(count), strict=True)])
        each = self.rows.total // count  # of positions, for example, there is one row for all
        return torch.cat([(y := layer(x)).expand(each, *y.shape[1:]) for layer in self.layers])


class Rows:
    """The number of rows in the current batch, of all runs together."""

    total = 0


PACKED = {  # by type: the name of the tensor that is as large as the weight, and the layer for several runs
    LowRankLinear: ("residual", PackedLowRank),
    ScaledLinear: ("unscaled", PackedScaled),
    nn.Linear: ("weight", PackedLinear),
    Conv1D: ("weight", PackedLinear),
}


def pack_layers(model: nn.Module, runs: Sequence[nn.Module], stacks: Stacks, rows: Rows) -> None:
    """Replace, in ``model``, every layer that differs between the runs' models by one that holds those of all runs.

    ``model`` is a copy of the first run's, and shares its tensors. Raises `UnpackableError` for a layer that has no
    packed form.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UnpackableError(f"{name} computes with all rows of a batch, which a pack mixes; use packed=1")
        layers = [run.get_submodule(name) for run in runs]
        own = zip(*(layer._parameters.values() for layer in layers), strict=True)
        if all(tensor is tensors[0] for tensors in own for tensor in tensors):
            continue
        replace_module(model, name, _packed(name, layers, stacks, rows))


def _packed(name: str, layers: list[Any], stacks: Stacks, rows: Rows) -> nn.Module:
    stored, kind = PACKED.get(type(layers[0]), ("", None))
    if kind is not None and getattr(layers[0], stored).ndim == 2:
        return kind(layers, stacks)
    if next(layers[0].children(), None) is not None or kind is not None:
        raise UnpackableError(f"{name}, a {type(layers[0]).__name__}, cannot be packed; use packed=1")
    return OneByOne(layers, rows)
