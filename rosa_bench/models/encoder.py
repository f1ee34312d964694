"""Encoders with a classification or regression head."""

from transformers import AutoModelForSequenceClassification, PretrainedConfig

from rosa_bench.models.pretrained import Loaded, load_pretrained
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.source import Source


def load_encoder(spec: Encoder, source: Source, *, num_outputs: int) -> Loaded:
    """Load ``spec`` from ``source`` with a head of ``num_outputs`` outputs (1 = regression with squared error).

    The head and other random weights come from torch's global generator; seed it first. A fine-tuned model keeps its
    own head, which must have that size. Raises `UserError` as `load_pretrained` does.
    """

    def adjust(config: PretrainedConfig) -> None:
        config.problem_type = None  # that of a fine-tuned model may not fit the new number of outputs
        config.num_labels = num_outputs
        config.problem_type = "regression" if num_outputs == 1 else "single_label_classification"

    return load_pretrained(
        spec,
        source,
        architecture=AutoModelForSequenceClassification,
        adjust=adjust,
        expected=f"a head with {num_outputs} outputs; use a model without a head or with one of that size",
    )
