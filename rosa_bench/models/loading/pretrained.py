"""Load models of any architecture from any source, through transformers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rosa_bench.layers.prompts.positions import num_positions
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.models.loading.completeness import check_attention, check_weights
from rosa_bench.models.loading.configuration import configuration, reason, without_weights
from rosa_bench.models.loading.tokenizer import check_vocabulary, load_tokenizer
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.folder import CONFIG, ModelFolder, model_folder, read_object
from rosa_bench.models.weights.hub import fetch_weights
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import Source
from rosa_bench.models.weights.tensors import read_tensors
from rosa_bench.system.errors import UserError

GENERATION = "generation_config.json"


class Loaded(NamedTuple):
    """A loaded model, in float32 on the CPU.

    commit   commit on the hub, if it came from there
    missing  names of the weights that the source lacks, which are therefore random: all are in the head
    stored   the configuration as stored; empty for random weights
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    commit: str | None = None
    missing: tuple[str, ...] = ()
    stored: Mapping[str, Any] = {}


def load_pretrained(
    spec: Model,
    source: Source,
    *,
    architectures: Mapping[type[PretrainedConfig], Any],
    adjust: Callable[[PretrainedConfig], None],
    expected: str,
) -> Loaded:
    """Load ``spec`` from ``source`` as one of ``architectures``, transformers' model class by configuration class.

    ``adjust`` checks the configuration and sets what the task needs. Random weights and those of a missing head are
    drawn from torch's global generator; seed it first. Only files of a known name are read, and no code. Raises
    `UserError` if files are damaged or do not belong together, if weights outside the head are missing, or if the
    declaration does not fit the model; ``expected`` says what a stored head should fit.
    """
    transformers_logging.set_verbosity_error()  # the checks here replace its warnings
    transformers_logging.disable_progress_bar()
    if source.kind == "random":
        return _drawn(spec, architectures, adjust)
    source = fetch_weights(spec, source)
    called = f"model.path={source.location}" if source.kind == "path" else source.location
    folder = model_folder(Path(source.location), called=called, model_type=spec.model_type)
    config = configuration(folder.config, called=str(folder.path / CONFIG))
    adjust(config)
    kind = architectures[type(config)]
    without_weights(kind, config, called=str(folder.path / CONFIG))  # checks that it can be built and fits
    tokenizer = load_tokenizer(folder)
    tensors = read_tensors(*(folder.path / name for name in folder.weights))
    try:
        # Given tensors instead of a folder, transformers opens no file and asks no server.
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:  # by architecture
        raise UserError(f"the weights in {source.location} cannot be loaded: {reason(error)}") from error
    check_weights(model, tensors, report=report, spec=spec, called=source.location, expected=expected)
    check_attention(model, spec)
    check_vocabulary(tokenizer, model, called=source.location)
    if model.can_generate() and GENERATION in folder.others:
        model.generation_config = _generation_config(folder)
    use_fast_attention(model)
    return Loaded(model, tokenizer, source.commit, tuple(sorted(report["missing_keys"])), folder.config)


def max_input_length(loaded: Loaded) -> int:
    """Return the largest number of tokens that both the model and its tokenizer accept."""
    return min(int(loaded.tokenizer.model_max_length), num_positions(loaded.model))


def _drawn(
    spec: Model, architectures: Mapping[type[PretrainedConfig], Any], adjust: Callable[[PretrainedConfig], None]
) -> Loaded:
    """Return a model with random weights, and a tokenizer of bytes."""
    config = configuration(spec.drawn_from or {}, called="model.random")
    adjust(config)
    kind = architectures[type(config)]
    without_weights(kind, config, called="model.random")
    model = kind._from_config(config, dtype=torch.float32)
    check_attention(model, spec)
    tokenizer = byte_tokenizer(max_length=num_positions(model))
    check_vocabulary(tokenizer, model, called="model.random")
    use_fast_attention(model)
    return Loaded(model, tokenizer)


def _generation_config(folder: ModelFolder) -> GenerationConfig:
    try:
        return GenerationConfig.from_dict(read_object(folder.path / GENERATION))
    except UserError:
        raise
    except Exception as error:  # it checks its values in several ways
        raise UserError(f"{folder.path / GENERATION} is not valid: {reason(error)}") from error
