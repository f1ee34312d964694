"""Causal language models."""

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.models.loading.pretrained import Loaded, load_pretrained
from rosa_bench.models.logits.chunked_loss import use_chunked_loss
from rosa_bench.models.spec import Decoder
from rosa_bench.models.weights.source import Source
from rosa_bench.system.errors import UserError


def load_decoder(spec: Decoder, source: Source) -> Loaded:
    """Load ``spec`` from ``source`` as a causal language model. Its loss is computed in chunks.

    Raises `UserError` as `load_pretrained` does, and for a model without a causal head or with bidirectional attention.
    """
    advice = "use a decoder, such as model=gpt2"

    def adjust(config: PretrainedConfig) -> None:
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"model={spec.name} is a {config.model_type}, which has no causal head; {advice}")

    loaded = load_pretrained(
        spec,
        source,
        architectures=MODEL_FOR_CAUSAL_LM_MAPPING,
        adjust=adjust,
        expected="its config.json; use files that belong together",
    )
    if not is_causal(loaded.model):  # BERT is in the mapping because it can be configured as a decoder
        raise UserError(
            f"model={spec.name} is a {loaded.model.config.model_type}, which attends to later tokens; {advice}"
        )
    use_chunked_loss(loaded.model)
    return loaded


@torch.inference_mode()
def is_causal(model: PreTrainedModel) -> bool:
    """Return whether a token's logits are independent of the tokens after it."""
    with evaluating(model):
        two = model(torch.tensor([[0, 0], [0, 1]])).logits  # (2, 2, vocabulary)
    return torch.allclose(two[0, 0], two[1, 0], atol=1e-4)
