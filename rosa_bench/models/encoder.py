"""Encoders with a classification or regression head."""

from collections.abc import Sequence

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from rosa_bench.models.loading.labels import order_of, reorder_outputs, stored_labels
from rosa_bench.models.loading.pretrained import Loaded, load_pretrained
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.source import Source
from rosa_bench.system.errors import UserError


def load_encoder(spec: Encoder, source: Source, *, num_outputs: int, labels: Sequence[str] = ()) -> Loaded:
    """Load ``spec`` from ``source`` with a head of ``num_outputs`` outputs (1 = regression with squared error).

    The head and other random weights come from torch's global generator; seed it first. A fine-tuned model keeps its
    own head, which must have that size. ``labels`` are the task's class names, in order: a stored head is put into
    their order by its own names, if it has any, and the loaded model carries them. Raises `UserError` as
    `load_pretrained` does, and if a stored head is of other classes.
    """

    def adjust(config: PretrainedConfig) -> None:
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise UserError(
                f"model={spec.name} is a {config.model_type}, which has no classification head; use an encoder, such "
                "as model=roberta_base"
            )
        config.num_labels = num_outputs
        config.problem_type = "regression" if num_outputs == 1 else "single_label_classification"
        if labels:
            config.id2label = dict(enumerate(labels))
            config.label2id = {name: number for number, name in enumerate(labels)}

    loaded = load_pretrained(
        spec,
        source,
        architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        adjust=adjust,
        expected=f"a head with {num_outputs} outputs; use a model without a head or with one of that size",
    )
    if labels and loaded.stored and not loaded.missing:
        called = source.location
        if names := stored_labels(loaded.stored, called=called):
            reorder_outputs(loaded.model, order_of(names, labels, called=called), head=spec.head)
    return loaded
