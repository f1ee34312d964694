"""Load models of any architecture from any source, through transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rosa_bench.layers.positions import num_positions
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.hub import fetch_weights
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import Source
from rosa_bench.system.errors import UserError


class Loaded(NamedTuple):
    """A loaded model, in float32 on the CPU.

    commit   commit on the hub, if it came from there
    missing  names of the weights that the source lacks, which are therefore random
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    commit: str | None = None
    missing: tuple[str, ...] = ()


def load_pretrained(
    spec: Model, source: Source, *, architecture: Any, adjust: Callable[[PretrainedConfig], None], expected: str
) -> Loaded:
    """Load ``spec`` from ``source`` as ``architecture``, one of transformers' ``AutoModelFor...`` classes.

    ``adjust`` checks the configuration and sets what the task needs. Random and missing weights are drawn from torch's
    global generator; seed it first. Raises `UserError` if the weights cannot be loaded, are damaged, or have the wrong
    shapes; ``expected`` says in that message what they should fit.
    """
    transformers_logging.set_verbosity_error()  # it would warn that the head is new, as intended
    transformers_logging.disable_progress_bar()
    if source.kind == "random":
        config = random_config(spec)
        adjust(config)
        model = architecture.from_config(config, dtype=torch.float32)
        use_fast_attention(model)
        return Loaded(model, byte_tokenizer(max_length=num_positions(model)))
    if source.kind == "path" and not Path(source.location, "tokenizer_config.json").is_file():
        # transformers would create a tokenizer with an empty vocabulary
        raise UserError(
            f"model.path={source.location} has no tokenizer; add tokenizer_config.json and its tokenizer files"
        )
    source = fetch_weights(spec, source)
    # By default transformers asks whether to run such code, and asks the hub about files that a folder lacks.
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
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
        reason = str(error).splitlines()[0]
        raise UserError(f"model={spec.name} cannot be loaded from {source.location}: {reason}") from error
    except RuntimeError as error:  # raised by transformers if shapes differ from the configuration
        raise UserError(f"the weights in {source.location} do not fit {expected}") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(f"model={spec.name} comes with Python code, which is never run; choose another") from error
    use_fast_attention(model)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"model={spec.name} is damaged: {name} contains NaN or Inf; use another copy of the weights"
            )
    return Loaded(model, tokenizer, source.commit, tuple(sorted(found["missing_keys"])))


def max_input_length(loaded: Loaded) -> int:
    """Return the largest number of tokens that both the model and its tokenizer accept."""
    return min(int(loaded.tokenizer.model_max_length), num_positions(loaded.model))


def random_config(spec: Model) -> PretrainedConfig:
    """Make the configuration of a random model. Raises `UserError` if transformers does not support it."""
    settings = dict(spec.drawn_from or {})
    model_type = settings.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.random with model_type={model_type} is not valid: {error}") from error
