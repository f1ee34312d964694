"""Give causal language models a loss that never holds the logits of all tokens.

With labels the model returns its loss, and computes logits only if asked. Without labels nothing changes.
"""

from dataclasses import dataclass
from functools import wraps
from types import MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from rosa_bench.data.batches import IGNORED
from rosa_bench.layers.fused.joined import unjoined_type
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.models.caches import NoCache, attends_to_all, cache_argument
from rosa_bench.models.logits.cross_entropy import Kernel, chunked_cross_entropy

# What a pass may be given besides labels. With anything else, such as a cache, the model's own loss is computed.
BODY = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")
KEPT = "logits_to_keep"  # positions by row, as in `rosa_bench.models.logits.kept_logits`


@dataclass
class Output:
    """The loss of a pass, and what its logits are computed from if they are asked for."""

    loss: Tensor
    head: nn.Linear | LowRankLinear
    hidden: Tensor

    @property
    def logits(self) -> Tensor:
        """Compute all logits, (rows, positions, vocabulary)."""
        return self.head(self.hidden)


def use_chunked_loss(model: PreTrainedModel) -> bool:
    """Make ``model`` compute its loss in chunks of tokens if that is the same loss. Return whether it does.

    It is not if the model changes its logits after the output layer, as Gemma 2 does, or has a loss of its own. The
    model keeps its modules and their names; a copy of it computes the same.
    """
    if not has_plain_logits(model):
        return False
    own, cache = type(model).forward, cache_argument(model)

    @wraps(own)
    def forward(self: PreTrainedModel, *arguments: Any, labels: Tensor | None = None, **options: Any) -> Any:
        given = {name: value for name, value in options.items() if value is not None}
        head, kept = self.get_output_embeddings(), given.pop(KEPT, None)
        by_row = kept is None or (isinstance(kept, Tensor) and kept.ndim == 2)
        if labels is None or arguments or not by_row or not given.keys() <= set(BODY) or not can_be_chunked(head):
            return own(self, *arguments, labels=labels, **options)
        hidden = self.base_model(**given, **{cache: NoCache()}, use_cache=False).last_hidden_state
        if kept is not None:
            hidden = hidden.take_along_dim(kept[..., None], 1)
        return Output(shifted_loss(head, hidden, labels, self.loss_kernel), head, hidden)  # pyrefly: ignore[bad-argument-type]

    model.loss_kernel = Kernel()  # pyrefly: ignore[bad-argument-type]
    model.forward = MethodType(forward, model)
    return True


def can_be_chunked(head: nn.Module | None) -> TypeGuard[nn.Linear | LowRankLinear]:
    """Return whether an output layer may be called several times in a pass: its gradients are its own parameters'.

    Hooks would see the parts of a batch, and a weight that was formed with those of other layers has other parameters.
    """
    if head is None:
        return False
    alone = isinstance(head, LowRankLinear) and head.materialised is None
    if unjoined_type(head) is not nn.Linear and not alone:
        return False
    return not head._forward_hooks and not head._forward_pre_hooks


def shifted_loss(head: nn.Linear | LowRankLinear, hidden: Tensor, labels: Tensor, kernel: Kernel) -> Tensor:
    """Return the mean loss of each label, (rows, length), given the hidden state before it, (rows, length, width)."""
    vocab_size = head.out_features if isinstance(head, nn.Linear) else head.shape[0]
    return chunked_cross_entropy(
        head, hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), vocab_size=vocab_size, kernel=kernel
    )


@torch.inference_mode()
def has_plain_logits(model: PreTrainedModel) -> bool:
    """Return whether the logits are a linear layer's outputs, and the loss is their mean cross-entropy."""
    head, body = model.get_output_embeddings(), model.base_model
    if type(head) is not nn.Linear or body is model or model.loss_function is not ForCausalLMLoss:
        return False
    if not attends_to_all(model.config):
        return False
    seen: dict[str, Any] = {}
    hooks = [
        body.register_forward_hook(lambda _, __, output: seen.update(hidden=output.last_hidden_state)),
        head.register_forward_hook(lambda _, given, output: seen.update(given=given[0], logits=output)),
    ]
    tokens = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]], device=model.device)
    labels = torch.tensor([[0, 1, 0, 1], [1, 1, IGNORED, 0]], device=model.device)
    with evaluating(model):
        found = model(input_ids=tokens, labels=labels)
    for hook in hooks:
        hook.remove()
    if "hidden" not in seen:  # the model calls a part of its body instead, as OPT does
        return False
    plain = found.logits is seen["logits"] and torch.equal(seen["given"], seen["hidden"])
    return plain and torch.allclose(found.loss, shifted_loss(head, seen["hidden"], labels, Kernel()), rtol=1e-5, atol=0)
