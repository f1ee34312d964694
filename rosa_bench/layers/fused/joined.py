"""Compute linear layers that read the same input in one product, and cast frozen weights once, not in every step.

Queries, keys and values read the same input, and so do the gate and the feed-forward layer of a Llama. Alone, each is
a small product that fills a GPU badly, in the forward pass and twice in the backward pass. Together they are one.

The layers keep their places, names and parameters. The first of them to be called computes the outputs of all.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from rosa_bench.layers.low_rank import LowRankLinear, product_dtype
from rosa_bench.layers.storage.narrow import is_narrow
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.layers.structure.linear import weight_of

Layer = nn.Linear | Conv1D | LowRankLinear


class Join:
    """Layers with the same input, in the order in which they are called.

    weight   their weights, one after another, for this pass; None if they compute by themselves
    bias     their biases in the same way, if these are kept too
    trained  whether all are plain layers that train, so that their weights are joined again in each training pass
    """

    def __init__(self, layers: Sequence[Layer]):
        self.layers: list[Any] = list(layers)
        self.sizes = [_weight(layer).shape[0] for layer in layers]
        self.trained = not any(isinstance(it, LowRankLinear) or not it.weight.requires_grad for it in layers)
        self.release()

    def release(self) -> None:
        """Forget what belongs to one pass."""
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.given: Tensor | None = None
        self.waiting: list[Tensor] = []

    def output_of(self, place: int, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the output of the layer at this place, whose own forward pass is ``own``."""
        if place == 0:
            weight = self._formed(x)
            if weight is None:
                return own(x)
            self.given, self.waiting = x, list(functional.linear(x, weight, self._bias()).split(self.sizes, -1))
        elif self.given is not x:
            return own(x)
        y = self.waiting[place]
        if place == len(self.sizes) - 1:
            self.given, self.waiting = None, []
        return y

    def _formed(self, x: Tensor) -> Tensor | None:
        if self.weight is not None or not (self.trained and torch.is_grad_enabled()):
            return self.weight
        dtype = product_dtype(x.device, x.dtype)
        return torch.cat([_weight(layer).to(dtype) for layer in self.layers])

    def _bias(self) -> Tensor | None:
        if self.bias is not None or self.layers[0].bias is None:
            return self.bias
        return self.layers[0].bias if len(self.layers) == 1 else torch.cat([it.bias for it in self.layers])


class Joined:
    """What the type of a joined layer adds to its own.

    Types, unlike forward passes that are set on a layer, let the compiler use one code for the blocks of a stack.
    """

    join: Join | None = None
    place: int = 0

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.join is None:  # a new layer of this type, made when a copy of the model is merged
            return super().forward(x)  # pyrefly: ignore[missing-attribute]
        return self.join.output_of(self.place, super().forward, x)  # pyrefly: ignore[missing-attribute]


@cache
def _joined_type(own: type) -> type:
    return type(f"Joined{own.__name__}", (Joined, own), {})


def unjoined_type(layer: nn.Module) -> type:
    """Return a layer's type outside the block of `joined`."""
    return type(layer).__mro__[2] if isinstance(layer, Joined) else type(layer)


class Frozen:
    """The frozen weights of a join's layers, in the type of the products.

    Weights of that type are stored next to each other: the parameters become views of one tensor. Wider weights, such
    as float32 under autocast, are cast once, and the copy is kept. A captured graph reads the copy. After a weight has
    changed, or has trained, the next pass that runs from Python writes the copy again, in place. Steps leave no trace
    on a weight: fused optimizers and replayed graphs do not raise its version.
    """

    def __init__(self, join: Join):
        self.join = join
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self._seen: tuple | None = None

    def form(self) -> None:
        """Give the join its weight for one training pass, unless the layers train by now."""
        weights = [layer.weight for layer in self.join.layers]
        biases = [layer.bias for layer in self.join.layers if layer.bias is not None]
        if any(weight.requires_grad for weight in weights):
            self._seen = None
            return
        dtype = product_dtype(weights[0].device, torch.promote_types(weights[0].dtype, torch.float32))
        frozen = not any(bias.requires_grad for bias in biases)
        if self._seen != _state(dtype, frozen, weights, biases):
            with torch.no_grad():
                self._keep(dtype, biases if frozen else [])
            self._seen = _state(dtype, frozen, weights, biases)
        self.join.weight, self.join.bias = self.weight, self.bias

    def _keep(self, dtype: torch.dtype, biases: Sequence[Tensor]) -> None:
        layers = self.join.layers
        weights = [_weight(layer) for layer in layers]
        if weights[0].dtype.itemsize > dtype.itemsize:
            self.weight = _joined_in(dtype, weights, self.weight)
        elif weights[0].dtype == dtype and len(layers) > 1 and not any(isinstance(it, Conv1D) for it in layers):
            self.weight = torch.cat(weights)
            for layer, part in zip(layers, self.weight.split(self.join.sizes), strict=True):
                layer.weight.data = part
        else:  # there is nothing to gain
            self.weight = None
        self.bias = _joined_in(dtype, biases, self.bias) if biases and self.weight is not None else None


@contextmanager
def joined(model: nn.Module, batch: Mapping[str, Tensor] | None) -> Iterator[list[Join]]:
    """Within the block, compute layers of ``model`` that read the same input together, and cast frozen weights once.

    Yields the joins of low-rank layers, to be formed by `rosa_bench.layers.fused.stacked`. ``batch`` is input of the
    model: a pass through its first row shows which layers share theirs. Without it nothing changes. Frozen and trained
    plain layers are joined in training passes only.
    """
    found = [] if batch is None else [part for group in sharing_inputs(model, batch) for part in _alike(group)]
    joins = [Join(part) for part in found]
    joins = [join for join in joins if len(join.layers) > 1 or not (join.trained or _is_low_rank(join))]
    frozen = [Frozen(join) for join in joins if not (join.trained or _is_low_rank(join))]

    def form(*_: object) -> None:
        if model.training and torch.is_grad_enabled():
            for one in frozen:
                one.form()

    def release(*_: object) -> None:
        for join in joins:
            join.release()

    hooks = [model.register_forward_pre_hook(form), model.register_forward_hook(release, always_call=True)]
    try:
        for join in joins:
            for place, layer in enumerate(join.layers):
                layer.join, layer.place = join, place
                layer.__class__ = _joined_type(type(layer))
        yield [join for join in joins if _is_low_rank(join)]
    finally:
        release()
        for join in joins:
            for layer in join.layers:
                layer.__class__ = unjoined_type(layer)
                del layer.join, layer.place
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def sharing_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> list[list[Layer]]:
    """Return the model's linear layers in the order of a pass, those with the same input in one list.

    Left out are layers that are called more than once, and those whose output is then changed in place, as PEFT's
    AdaLoRA does: outputs of one product must not be. An input that is changed in place between two layers is not the
    same. The pass sees the first row of ``batch``, without dropout.
    """
    calls: list[tuple[Layer, Tensor, int]] = []
    outputs: list[tuple[Layer, Tensor, int]] = []

    def note(layer: Layer, given: tuple[Tensor, ...], y: Tensor) -> None:
        calls.append((layer, given[0], given[0]._version))
        outputs.append((layer, y, y._version))

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if type(module) in (LowRankLinear, nn.Linear, Conv1D) or is_narrow(module)
    ]
    try:
        with evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's SHiRA warns of the hooks, which are gone after this pass
            model(**{name: tensor[:1] for name, tensor in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
    count = Counter(layer for layer, *_ in calls)
    changed = {layer for layer, y, version in outputs if y._version > version}
    groups = [
        [layer for layer, *_ in same if count[layer] == 1 and layer not in changed]
        for _, same in groupby(calls, lambda call: (id(call[1]), call[2]))
    ]
    return [group for group in groups if group]


def _alike(layers: Iterable[Layer]) -> list[list[Layer]]:
    """Split layers into lists that can be joined."""
    return [list(part) for _, part in groupby(sorted(layers, key=_kind), _kind)]


def _kind(layer: Layer) -> tuple:
    weight = layer.residual if isinstance(layer, LowRankLinear) else layer.weight
    return str(type(layer)), str(weight.dtype), str(weight.device), weight.requires_grad, layer.bias is None


def _is_low_rank(join: Join) -> bool:
    return isinstance(join.layers[0], LowRankLinear)


def _weight(layer: Layer) -> Float[Tensor, "out in"]:
    return layer.residual if isinstance(layer, LowRankLinear) else weight_of(layer)


def _state(dtype: torch.dtype, frozen: bool, *tensors: Sequence[Tensor]) -> tuple:
    return dtype, frozen, *((it._version, it.data_ptr()) for group in tensors for it in group)


def _joined_in(dtype: torch.dtype, parts: Sequence[Tensor], before: Tensor | None) -> Tensor:
    """Return tensors one after another in ``dtype``: in ``before`` if it fits, so that its address stays."""
    rows = sum(len(part) for part in parts)
    if before is None or before.dtype != dtype or before.device != parts[0].device:
        before = parts[0].new_empty(rows, *parts[0].shape[1:], dtype=dtype)
    for part, target in zip(parts, before.split([len(part) for part in parts]), strict=True):
        target.copy_(part)
    return before
