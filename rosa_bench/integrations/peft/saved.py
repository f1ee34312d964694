"""An adapter's tensors in LoRA's form: the current factors first, then the past, all with scale 1.

This form is both the exact update, which PEFT applies to the original weights, and ROSA's whole state, because the base
weight is a function of the original weight and the past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from rosa_bench.integrations.peft.past import Past
from rosa_bench.layers.exact import Update
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from rosa_bench.integrations.peft.config import RosaConfig
    from rosa_bench.integrations.peft.layer import RosaLinear

SAME_BASE = 0.05  # how far the first subspace may be from the weight's own: bfloat16 and float32 differ by less


def export(
    layers: dict[str, RosaLinear], config: RosaConfig, adapter: str, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Replace the current factors in ``found`` by the exact update, of one rank in all layers. Add nothing else.

    The settings remember the rank, for the adapter's own file, and the number of draws.
    """
    exact = {}
    for name, layer in layers.items():  # from the state dict, in which sharded factors are already gathered
        a, b = (found[f"{name}.{part}.{adapter}.weight"] for part in ("lora_B", "lora_A"))
        exact[name] = layer.exact(adapter, Update(a, b))
    rank = max((update.rank for update in exact.values()), default=0)
    for name, update in exact.items():
        missing = rank - update.rank  # some layers may not have trained in between
        found[f"{name}.lora_B.{adapter}.weight"] = functional.pad(update.a, (0, missing))
        found[f"{name}.lora_A.{adapter}.weight"] = functional.pad(update.b, (0, 0, 0, missing))
    config.exported = (rank, max((layer.draws[adapter] for layer in layers.values()), default=0))
    return found


def restore(
    layers: dict[str, RosaLinear], config: RosaConfig, adapter: str, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Take the past out of saved tensors, and leave the current factors in them, for PEFT to load.

    Raises `UserError`, before any layer changes, if the tensors are not those of these layers with their weights.
    """
    keys = {name: [f"{name}.{part}.{adapter}.weight" for part in ("lora_B", "lora_A")] for name in layers}
    known = {key for pair in keys.values() for key in pair}
    strange = sorted(key for key in found if (".lora_A." in key or ".lora_B." in key) and key not in known)
    missing = sorted(known - set(found))
    if strange or missing:
        raise UserError(f"the adapter is of another model or has other target_modules: see {(strange or missing)[0]}")
    split = {name: _split(name, layer, adapter, *(found[key] for key in keys[name])) for name, layer in layers.items()}
    if not any(past.parts for _, past in split.values()):
        raise UserError("the adapter holds no state of ROSA; load it as LoRA, without config=")
    for name, (current, past) in split.items():
        layer, drawn = layers[name], config.saved_draws
        layer.pasts[adapter] = past
        layer.draws[adapter] = (len(past.parts) - 1) // 2 if drawn is None else drawn
        layer.renew()
        for key, factor, like in zip(keys[name], current, layer.current(adapter), strict=True):
            found[key] = factor.to(like.device) if not like.is_meta else factor
        found.pop(f"{name}.base_layer.weight", None)  # the original weight, and the layer's holds the past as well
    config.saved_draws = None
    return found


def _split(name: str, layer: RosaLinear, adapter: str, a: Tensor, b: Tensor) -> tuple[Update, Past]:
    """Return the current factors and the past of saved factors, once they are known to fit the layer."""
    rank, (rows, columns) = layer.r[adapter], layer.shape
    if a.ndim != 2 or a.shape[1] < rank or (a.shape[0], b.shape) != (rows, (a.shape[1], columns)):
        raise UserError(
            f"the adapter does not fit {name}, a weight of {rows} x {columns} with r={rank}: "
            f"its factors are {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError(f"the adapter contains NaN or Inf in {name}; use one that was saved earlier")
    past = Past()
    for start in range(rank, a.shape[1], rank):
        past.add(a[:, start : start + rank], b[start : start + rank])
    if past.parts:
        first, basis = (factor.to(layer.original.device).double() for factor in past.parts[0])
        weight = layer.original.double()
        own = (weight.mT if layer.fan_in_fan_out else weight) @ basis.mT
        # A first draw A B satisfies W B^T = A (B B^T), and was then taken from the weight, so its sign is changed.
        if torch.linalg.norm(own + first @ (basis @ basis.mT)) > SAME_BASE * torch.linalg.norm(own):
            raise UserError(
                f"the adapter's state does not belong to the weight of {name}: it was trained on another base model, "
                "or ROSA did not save it"
            )
    return Update(a[:, :rank].contiguous(), b[:rank].contiguous()), past
