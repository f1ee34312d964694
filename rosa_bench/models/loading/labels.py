"""Put the outputs of a stored classification head into the order of the task's classes, by their names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.layers.structure.evaluating import evaluating
from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.system.errors import UserError


def stored_labels(config: Mapping[str, Any], *, called: str) -> list[str]:
    """Return the class names in a stored configuration, in the order of the outputs; none if they are only numbered.

    Raises `UserError` if the two places for them disagree or are not understood.
    """
    forward, backward = config.get("id2label") or {}, config.get("label2id") or {}
    try:
        by_output = {int(number): str(name) for number, name in forward.items()}
        other = {int(number): str(name) for name, number in backward.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{called} has class names that are not understood: {error}") from error
    named = {number: name for number, name in (by_output or other).items() if not re.fullmatch(r"LABEL_\d+", name)}
    if not named:
        return []
    if by_output and other and by_output != other and not all(re.fullmatch(r"LABEL_\d+", it) for it in other.values()):
        raise UserError(f"{called} has an id2label and a label2id that differ; correct one of them")
    names = [name for _, name in sorted((by_output or other).items())]
    if sorted(by_output or other) != list(range(len(names))):
        raise UserError(f"{called} has class names that are not numbered from 0: {', '.join(names[:5])}")
    return names


def order_of(stored: Sequence[str], labels: Sequence[str], *, called: str) -> list[int]:
    """Return, for each of the task's ``labels``, the number of its output in the stored head.

    Names are compared without regard to case, spaces and punctuation. Raises `UserError` if they are not the same.
    """
    ours, theirs = [_plain(name) for name in labels], [_plain(name) for name in stored]
    if sorted(ours) != sorted(theirs) or len(set(ours)) != len(ours):
        raise UserError(
            f"{called} has a head for the classes {', '.join(stored)}; this task's are {', '.join(labels)}; use a "
            "model without a head, or correct the names in its config.json"
        )
    return [theirs.index(name) for name in ours]


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, order: Sequence[int], *, head: str) -> None:
    """Move the outputs of the head: afterwards output ``i`` is what output ``order[i]`` was.

    ``head`` is the regular expression for the head's modules. Raises `UserError` if its last layer is not linear.
    """
    if list(order) == list(range(len(order))):
        return
    in_head = (module for name, module in model.named_modules() if name_matches(rf"({head})(\..*)?", name))
    linears = [it for it in in_head if isinstance(it, nn.Linear) and it.out_features == len(order)]
    before = _probe(model)
    for last in linears[-1:]:
        for parameter in last.parameters():
            parameter.copy_(parameter[list(order)])
    if not torch.allclose(_probe(model), before[..., list(order)], atol=1e-5):
        raise UserError(
            f"the head of this {model.config.model_type} cannot be put into the order of the task's classes; use a "
            "model without a head"
        )


def _probe(model: PreTrainedModel) -> Tensor:
    """Return the model's logits for one short input."""
    with evaluating(model):
        return model(torch.tensor([[2, 3, 2]])).logits


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
