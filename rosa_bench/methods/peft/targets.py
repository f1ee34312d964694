"""Which layers a tuner of Hugging Face PEFT tunes: those of its settings, of ours, or of PEFT's own choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rosa_bench.methods.peft.behaviour import behaviour_of
from rosa_bench.methods.peft.config import PATTERNS, configuration, refused_in_one_line, tuner_class
from rosa_bench.methods.peft.experts import taken_for_experts
from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn

USUAL = "peft"  # method.targets: what PEFT itself tunes in a model of this type
NARROWING = ("exclude_modules", "layers_pattern", "layers_to_transform")
OTHER_LAYERS = ("LN_TUNING", "TRAINABLE_TOKENS")  # tune other layers than linear ones


def matching(model: nn.Module, peft_type: str, values: Mapping[str, Any], chosen: Any) -> list[str]:
    """Return the names of the modules that PEFT would tune with ``target_modules=chosen``. Raises `UserError` if none.

    ``values`` are the tuner's other settings, of which some leave modules out.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    config = configuration(peft_type, {**values, "target_modules": chosen}, seed=0)
    with refused_in_one_line(f"method.peft_type={peft_type}"):
        found = [name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)]
    if not found:
        raise UserError(
            f"method.config.target_modules={chosen} matches no layer of this model; use names of its layers, or leave "
            "it out and use method.targets="
        )
    return found


def narrowed(names: list[str], model: nn.Module, peft_type: str, values: Mapping[str, Any]) -> list[str]:
    """Return those of the named layers that `NARROWING` settings leave. Raises `UserError` if none is left."""
    if all(values.get(key) in (None, [], "") for key in NARROWING):
        return names
    ends = sorted({name.rpartition(".")[2] for name in names})  # PEFT takes a full name whatever these settings say
    left = set(matching(model, peft_type, values, ends))
    if not (found := [name for name in names if name in left]):
        raise UserError(f"method.config leaves no layer to tune; change {', '.join(NARROWING)}, or use method.targets=")
    return found


def usual(model: Any, peft_type: str) -> Any:
    """Return what PEFT tunes in this model if no setting says so. Raises `UserError` if PEFT does not know the model.

    Normalisation layers are known in every model, and so are the embeddings.
    """
    import peft.utils

    kind = getattr(getattr(model, "config", None), "model_type", None)
    elsewhere = getattr(peft.utils, f"TRANSFORMERS_MODELS_TO_{peft_type}_TARGET_MODULES_MAPPING", {})
    known = getattr(tuner_class(peft_type), "target_module_mapping", None) or elsewhere
    if kind in known:
        return known[kind]
    if peft_type in OTHER_LAYERS:
        return _other_layers(model, peft_type)
    raise UserError(
        f"PEFT has no targets of its own for {peft_type} in this model; choose them with method.targets=attention, "
        "all-linear or a regular expression"
    )


def settled(model: nn.Module, peft_type: str, values: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return settings that tune exactly the layers with these full names."""
    kept = {key: value for key, value in values.items() if key not in NARROWING}
    if (parts := kept.get("feedforward_modules")) is not None:  # of IA3, which must be among the targets
        kept["feedforward_modules"] = [name for name in names if _ends(name, parts)]
    shares = behaviour_of(peft_type, values).shares_alike
    return {**kept, **(by_endings(model, names) if shares else {"target_modules": names})}


def by_endings(model: nn.Module, names: list[str]) -> dict[str, list[str]]:
    """Return settings that tune exactly these layers, by what follows the number of a block in their names."""
    endings = sorted({re.split(r"\.\d+\.", name)[-1] for name in names})
    ending = tuple(f".{it}" for it in endings)
    others = [name for name, _ in model.named_modules() if f".{name}".endswith(ending) and name not in names]
    return {"target_modules": endings, "exclude_modules": others}


def check_targets(model: nn.Module, names: list[str], values: Mapping[str, Any], peft_type: str) -> None:
    """Raise `UserError` if PEFT could not merge the layers with these names, or if they share their weights.

    So it does if PEFT would tune others in their place, and if the order of patterns would decide a layer's setting: a
    run's settings have none.
    """
    from rosa_bench.layers.structure.parts import output_layer

    for key in PATTERNS:
        for name in names:
            found = _matching(values.get(key), name)
            if any(value != other for value, other in pairwise(found.values())):
                raise UserError(
                    f"method.config.{key} has several values for {name}: those of {' and '.join(found)}; PEFT takes "
                    "the first in a file, but a run's settings have no order; let one pattern match each layer"
                )
    if values.get("lora_bias"):
        bare = next((name for name in names if getattr(model.get_submodule(name), "bias", None) is None), None)
        if bare is not None:
            raise UserError(
                f"method.config.lora_bias=true cannot be merged into {bare}, which has no bias; remove it, or choose "
                "layers that have one with method.targets="
            )
    if peft_type == "LORA" and (taken := taken_for_experts(model, names)) is not None:
        raise UserError(
            f"PEFT would tune the model's experts in place of {taken}; choose other layers with method.targets=, such "
            "as attention, or use method=lora or rosa"
        )
    if peft_type == "TRAINABLE_TOKENS":
        output = output_layer(model)
        weights = [model.get_submodule(name).weight for name in names]
        if any(output is not None and output.weight is weight for weight in weights):
            raise UserError(
                "method.peft_type=TRAINABLE_TOKENS cannot be used: this model's output layer shares its embeddings; "
                "choose another tuner, or a model whose embeddings are its own"
            )


def _matching(patterns: object, name: str) -> dict[str, Any]:
    """Return the patterns that match a layer's name, as PEFT matches them, with their values."""
    from peft.utils.other import get_pattern_key

    if not isinstance(patterns, Mapping):
        return {}  # PEFT refuses it, and patterns that are no regular expressions
    try:
        return {pattern: value for pattern, value in patterns.items() if get_pattern_key([pattern], name) == pattern}
    except re.error:
        return {}


def _other_layers(model: Any, peft_type: str) -> list[str]:
    from rosa_bench.layers.structure.parts import norms

    found = norms(model) if peft_type == "LN_TUNING" else [getattr(model, "get_input_embeddings", lambda: None)()]
    wanted = {id(module) for module in found}
    names = [name for name, module in model.named_modules() if id(module) in wanted]
    if not names:
        raise UserError(f"method.peft_type={peft_type} finds no layer in this model; use another tuner")
    return names


def _ends(name: str, parts: Any) -> bool:
    """Return whether PEFT takes a layer for one of the feed-forward part."""
    return bool(re.fullmatch(parts, name)) if isinstance(parts, str) else any(name.endswith(part) for part in parts)
