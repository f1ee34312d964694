"""A model's layers and their shapes without its weights: what a method needs to know whether it fits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from rosa_bench.models.loading.configuration import configuration, without_weights
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.models.weights.folder import read_object
from rosa_bench.models.weights.source import Source, stored_configuration
from rosa_bench.system.errors import UserError


def model_of_shapes(spec: Model, source: Source) -> PreTrainedModel | None:
    """Return a decoder, or an encoder with a head of any size, on the meta device.

    Nothing is downloaded and no weights are read. If the model is on the hub and not on this machine, its declared
    ``shape`` is used. Returns None if there is none, or if the model has no such class; the run itself says why. Raises
    `UserError` if its configuration is not valid.
    """
    if source.kind == "random":
        called, values = "model.random", spec.drawn_from or {}
    else:
        found = stored_configuration(spec, source)
        called, values = (f"model={spec.name}", None) if found is None else _stored(found, source)
        values = values or getattr(spec, "shape", None)
        if values is None:
            return None
    config = configuration(values, called=called)
    architectures: Mapping[type[PretrainedConfig], Any] = (
        MODEL_FOR_CAUSAL_LM_MAPPING if isinstance(spec, Decoder) else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    )
    if type(config) not in architectures:
        return None
    return without_weights(architectures[type(config)], config, called=called)


def _stored(path: Path, source: Source) -> tuple[str, Mapping[str, Any] | None]:
    """Return what to call a stored configuration, and its values."""
    try:
        return str(path), read_object(path)
    except UserError:
        if source.kind == "hub":  # a damaged file of the cache is downloaded again by the run
            return str(path), None
        raise
