"""LoRA adapters in the files of Hugging Face PEFT, which PEFT itself and servers such as vLLM load.

All layers get the same rank, padded with zeros, and alpha equals the rank, because servers read one rank and one scale.
Written and read without PEFT.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from rosa_bench.adapters.lora import LoraAdapter
from rosa_bench.layers.exact import Update, compress
from rosa_bench.methods.peft.files import CONFIG, TENSORS, WRAPPED
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import check_finite, load_tensors
from rosa_bench.system.text.json_text import loads

SCALED_OTHERWISE = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")  # settings that we never write


class Written(NamedTuple):
    """How an adapter was written: its rank, and the error of its compression as a fraction of the whole update.

    full_rank  the largest rank of a layer's exact factors
    error      over all layers, in the Frobenius norm; 0 if nothing was cut off
    worst      the layer with the largest error, and that error
    """

    rank: int
    full_rank: int
    error: float
    worst: tuple[str, float]


def write_peft(adapter: LoraAdapter, folder: Path, *, base: Mapping[str, Any], max_rank: int | None = None) -> Written:
    """Write an adapter into an existing folder. ``base`` are PEFT's settings about the base model.

    Updates of more columns than ``max_rank``, or than the weight has rows or columns, are compressed.
    """
    short, written = compressed(adapter.updates, max_rank)
    tensors: dict[str, Tensor] = {}
    for name, update in short.items():
        missing = written.rank - update.rank
        tensors[f"{WRAPPED}.{name}.lora_A.weight"] = pad(update.b.detach().cpu(), (0, 0, 0, missing)).contiguous()
        tensors[f"{WRAPPED}.{name}.lora_B.weight"] = pad(update.a.detach().cpu(), (0, missing)).contiguous()
        if adapter.biases:
            change = adapter.biases.get(name, update.a.new_zeros(update.a.shape[0]))
            tensors[f"{WRAPPED}.{name}.lora_B.bias"] = change.contiguous()
    tensors |= {f"{WRAPPED}.{name}": value.contiguous() for name, value in adapter.head.items()}
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        **base,
        "r": written.rank,
        "lora_alpha": written.rank,
        "lora_dropout": 0.0,
        "lora_bias": bool(adapter.biases),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": adapter.transposed,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": sorted(adapter.updates),
        "modules_to_save": list(adapter.heads) or None,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return written


def compressed(updates: Mapping[str, Update], max_rank: int | None) -> tuple[dict[str, Update], Written]:
    """Return updates of at most ``max_rank`` columns, and of no more than a weight's rank can be, with their error."""
    short, lost, whole, worst = {}, 0.0, 0.0, ("", 0.0)
    for name, update in updates.items():
        smallest = min(update.a.shape[0], update.b.shape[1])
        limit = smallest if max_rank is None else min(max_rank, smallest)
        whole += update.delta().norm().item() ** 2
        if update.rank <= limit:
            short[name] = update
            continue
        found = compress(update, limit)
        short[name] = found.update
        lost += found.frobenius**2
        if found.relative_frobenius > worst[1]:
            worst = (name, found.relative_frobenius)
    rank = max((update.rank for update in short.values()), default=1)
    full = max((update.rank for update in updates.values()), default=1)
    return short, Written(rank, full, math.sqrt(lost / whole) if whole else 0.0, worst)


def read_peft(folder: Path) -> tuple[LoraAdapter, dict[str, Any]]:
    """Return an adapter that `write_peft` has written, and its settings. Raises `UserError` if there is none.

    Another program may have written the files, so nothing in them is trusted.
    """
    try:
        config = loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = load_tensors(folder / TENSORS)
        tensors = {name.removeprefix(f"{WRAPPED}."): it for name, it in found.items()}
        layers, heads = _names(config["target_modules"]), _names(config["modules_to_save"] or [])
        updates = {name: Update(tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_A.weight"]) for name in layers}
        biases = {name: tensors[f"{name}.lora_B.bias"] for name in layers} if config["lora_bias"] else {}
        scale, transposed = config["lora_alpha"] / config["r"], bool(config["fan_in_fan_out"])
        head = {name: it for name, it in tensors.items() if any(name.startswith(f"{one}.") for one in heads)}
        _check_factors(updates)
        _check_heads(heads, head)
        _check_all_read(config, tensors.keys() - head.keys(), updates)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, SafetensorError, RecursionError) as error:
        reason = " ".join(str(error).split())  # safetensors writes several lines
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        raise UserError(f"{folder} has no adapter of a run: {reason}") from error
    if scale != 1:
        raise UserError(f"{folder} has no adapter of a run: its scale is {scale:g}")
    check_finite(found, folder / TENSORS)
    adapter = LoraAdapter(
        updates={name: _trimmed(update) for name, update in updates.items()},
        biases={name: change for name, change in biases.items() if change.any()},  # PEFT has one for every layer
        head=head,
        heads=tuple(heads),
        transposed=transposed,
    )
    return adapter, config


def _names(value: Any) -> list[str]:
    """Return a list of names as it is. Raises TypeError for anything else: a string would count as its letters."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("target_modules and modules_to_save must be lists of names")
    return value


def _check_heads(names: list[str], head: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless each head has tensors."""
    for one in names:
        if not any(name.startswith(f"{one}.") for name in head):
            raise ValueError(f"it lacks the tensors of {one}")


def _check_all_read(config: Mapping[str, Any], others: set[str], updates: Mapping[str, Update]) -> None:
    """Raise ValueError if an adapter is more than factors, biases and heads. ``others`` are the tensors of no head."""
    for key in SCALED_OTHERWISE:
        if config.get(key):
            raise ValueError(f"{key}={config[key]} is for another scale or method")
    parts = ["lora_A.weight", "lora_B.weight", *(["lora_B.bias"] if config["lora_bias"] else [])]
    if strange := sorted(others - {f"{name}.{part}" for name in updates for part in parts}):
        raise ValueError(f"{strange[0]} belongs to another method")


def _check_factors(updates: Mapping[str, Update]) -> None:
    """Raise ValueError unless the factors of each update can be multiplied."""
    for name, (a, b) in updates.items():
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"the factors of {name} are {tuple(a.shape)} and {tuple(b.shape)}")
        if not all(factor.is_floating_point() for factor in (a, b)):
            raise ValueError(f"the factors of {name} are not floating-point numbers")


def _trimmed(update: Update) -> Update:
    """Return an update without the zeros that it was padded with."""
    used = torch.nonzero(update.a.any(0) | update.b.any(1))
    rank = int(used[-1]) + 1 if len(used) else 1
    return Update(update.a[:, :rank].contiguous(), update.b[:rank].contiguous())
