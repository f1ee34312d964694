"""Causal language models."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rosa_bench.models.pretrained import Loaded, load_pretrained
from rosa_bench.models.spec import Decoder
from rosa_bench.models.weights.source import Source
from rosa_bench.system.errors import UserError


def load_decoder(spec: Decoder, source: Source) -> Loaded:
    """Load ``spec`` from ``source``, to continue texts.

    Raises `UserError` as `load_pretrained` does, for a model without a causal head, and for one that looks ahead.
    """
    advice = "name a decoder, such as gpt2"

    def adjust(config: PretrainedConfig) -> None:
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"model={spec.name} is a {config.model_type}, which has no causal head; {advice}")

    loaded = load_pretrained(
        spec, source, architecture=AutoModelForCausalLM, adjust=adjust, misfit="what its config.json describes"
    )
    if loaded.drawn:
        raise UserError(f"model={spec.name} has no {', '.join(loaded.drawn)}, and so no causal head; {advice}")
    if not is_causal(loaded.model):  # BERT is in the mapping, as the decoder that it could be made into
        raise UserError(f"model={spec.name} is a {loaded.model.config.model_type} that looks ahead; {advice}")
    return loaded


@torch.inference_mode()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether what the model says of a token is the same whatever comes after it."""
    trained = model.training
    model.eval()
    two = model(torch.tensor([[0, 0], [0, 1]])).logits  # (2, 2, vocabulary)
    model.train(trained)
    return torch.allclose(two[0, 0], two[1, 0], atol=1e-4)
