"""A model's layers and their shapes without its weights: what a method needs to know whether it fits."""

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rosa_bench.models.pretrained import random_config
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.source import Source


def model_of_shapes(spec: Model, source: Source, *, architecture: Any) -> PreTrainedModel | None:
    """Return ``architecture``, one of transformers' ``AutoModelFor...`` classes, on the meta device.

    Nothing is downloaded and no weights are read. Returns None if the configuration is not on this machine or cannot be
    used; the run itself says why.
    """
    transformers_logging.set_verbosity_error()
    try:
        if source.kind == "random":
            config = random_config(spec)
        else:
            options = {"revision": spec.revision or "main"} if source.kind == "hub" else {}
            config = AutoConfig.from_pretrained(
                source.location, local_files_only=True, trust_remote_code=False, **options
            )
        with torch.device("meta"):
            return architecture.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError):  # a configuration that is odd
        return None
