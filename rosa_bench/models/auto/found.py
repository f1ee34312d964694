"""Declare a model from its own configuration: what ``conf/model/<name>.yaml`` would say about it."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.models.auto.structure import NOTHING, pattern_of, structure_of
from rosa_bench.models.loading.configuration import configuration, without_weights
from rosa_bench.models.spec import Decoder, Encoder, Transformer
from rosa_bench.models.weights.folder import CONFIG, model_folder, read_object
from rosa_bench.models.weights.tensors import names_in
from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.cache import Repository
from rosa_bench.system.hub.repository import fetch

NEEDED = "model=auto needs model.path=FOLDER or model.hub=ID"


class Kind(NamedTuple):
    """A kind of model: its declaration, and transformers' model class by configuration class."""

    declared_as: type[Transformer]
    architectures: Mapping[type[PretrainedConfig], Any]


ENCODER = Kind(Encoder, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
DECODER = Kind(Decoder, MODEL_FOR_CAUSAL_LM_MAPPING)


def declaration(path: str | None, hub: str | None, revision: str | None) -> Mapping[str, Any]:
    """Return the declaration of the model in a folder or on the hub, with its class as ``_target_``.

    Of the hub only config.json is fetched. Raises `UserError` if there is no model, or none that can be fine-tuned.
    """
    if path is not None:
        return _in_folder(path, _stamp(Path(path).expanduser()))
    if hub is None:
        raise UserError(NEEDED)
    return _on_hub(hub, revision or "main")


def kind_of(config: PretrainedConfig, *, called: str) -> Kind:
    """Return whether an architecture is an encoder or a decoder.

    Encoders are those that transformers knows as masked language models: many of them can be set up as decoders, and
    most decoders as classifiers. Raises `UserError` for anything else.
    """
    whole = not config.is_encoder_decoder
    if whole and type(config) in MODEL_FOR_MASKED_LM_MAPPING and type(config) in ENCODER.architectures:
        return ENCODER
    if whole and type(config) in DECODER.architectures and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        return DECODER
    raise UserError(
        f"{called} is of a {config.model_type}, which is neither an encoder with a classification head nor a decoder; "
        "choose another model"
    )


@cache
def _in_folder(path: str, _stamp: tuple[Any, ...]) -> Mapping[str, Any]:
    """Return the declaration of the model in a folder. Each job and setting of a sweep asks for it again."""
    folder = model_folder(Path(path).expanduser(), called=f"model.path={path}")
    stored = names_in(*(folder.path / name for name in folder.weights))
    return _declared(folder.config, called=str(folder.path / CONFIG), stored=stored)


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Return what changes if a file in a folder does."""
    if not folder.is_dir():
        return ()
    return tuple(sorted((it.name, it.stat().st_mtime_ns, it.stat().st_size) for it in folder.iterdir() if it.is_file()))


def _declared(values: Mapping[str, Any], *, called: str, stored: frozenset[str] | None) -> Mapping[str, Any]:
    """Return the declaration for a configuration. ``stored`` names the weights; None if they are not known."""
    config = configuration(values, called=called)
    kind = kind_of(config, called=called)
    model = without_weights(kind.architectures[type(config)], config, called=called)
    structure = structure_of(model)
    if structure.attention == NOTHING:
        raise UserError(f"{called} is of a {config.model_type}, in which no attention projections are found")
    head = "|".join(filter(None, (structure.head.removeprefix(NOTHING), _pooler(model, stored)))) or NOTHING
    count = sum(
        parameter.numel() for name, parameter in model.named_parameters() if not name_matches(rf"({head})\..*", name)
    )
    return {
        "_target_": f"{kind.declared_as.__module__}.{kind.declared_as.__qualname__}",
        "name": f"{re.sub(r'[^a-z0-9]+', '_', config.model_type.lower())}_{size(count)}"[:48],
        "title": f"{_title(model)} ({size(count).upper()})",
        "parameters": count,
        "model_type": config.model_type,
        "attention": structure.attention,
        "head": head,
        "lm_head": structure.lm_head if kind is DECODER else None,
        "fused": structure.fused,
        "parts": structure.parts,
    }


def size(parameters: int) -> str:
    """Return a number of parameters in short form.

    >>> size(43_040), size(124_645_632), size(1_543_714_304)
    ('43k', '125m', '1.5b')
    """
    for unit, letter in ((1e9, "b"), (1e6, "m"), (1e3, "k")):
        if parameters >= unit:
            value = parameters / unit
            return f"{value:.0f}{letter}" if value >= 10 else f"{value:.1f}{letter}"
    return str(parameters)


def _pooler(model: PreTrainedModel, stored: frozenset[str] | None) -> str | None:
    """Return a pattern for the body's pooler if the weights lack it, as those of a masked language model do."""
    if stored is None:
        return None
    prefix = model.base_model_prefix
    poolers = [name for name, _ in model.base_model.named_children() if name == "pooler"]
    lacking = [f"{prefix}.{name}" for name in poolers if not any(_inside(it, prefix, name) for it in stored)]
    return pattern_of(lacking) if lacking else None


def _inside(stored: str, prefix: str, name: str) -> bool:
    return stored.removeprefix(f"{prefix}.").startswith(f"{name}.")


def _title(model: nn.Module) -> str:
    """Return what transformers calls the architecture: ``DebertaV2``."""
    return re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", type(model).__name__)


@cache
def _on_hub(hub: str, revision: str) -> Mapping[str, Any]:
    """Return the declaration of a model on the hub; its config.json is fetched unless it is cached."""

    def choose(paths: Sequence[str]) -> list[str]:
        if CONFIG not in paths:
            raise UserError(f"{hub} on the hub is not a model; it has no {CONFIG}")
        return [CONFIG]

    remedies = ["connect to the network", "set model.path=FOLDER to a local copy"]
    found = fetch(Repository(hub, "model", revision), choose, what=f"model.hub={hub}", remedies=remedies)
    return _declared(read_object(found.folder / CONFIG), called=f"{CONFIG} of {hub}", stored=None)
