"""Check that a model holds the weights of its source, and that its declaration fits it."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.layers.structure.linear import LINEAR_TYPES
from rosa_bench.layers.structure.surgery import kind, name_matches
from rosa_bench.models.spec import Model
from rosa_bench.models.weights.tensors import REAL
from rosa_bench.system.errors import UserError


def check_weights(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    *,
    report: Mapping[str, Any],
    spec: Model,
    called: str,
    expected: str,
) -> None:
    """Raise `UserError` unless every weight came from ``tensors``, except those of the task's head.

    ``report`` is transformers' account of loading. ``called`` names the source, and ``expected`` says what the head
    should fit. Weights that the model does not use are allowed outside its blocks, as the head of a masked language
    model; inside they are a sign of another architecture.
    """
    mismatched = sorted((name, tuple(stored), tuple(needed)) for name, stored, needed in report["mismatched_keys"])
    if mismatched:
        if all(in_head(spec, name) for name, _, _ in mismatched):
            raise UserError(f"the weights in {called} do not fit {expected}")
        name, stored, needed = next(it for it in mismatched if not in_head(spec, it[0]))
        raise UserError(
            f"the weights in {called} do not fit its config.json: {name} is {shape(stored)} and should be "
            f"{shape(needed)}; use files that belong together"
        )
    missing = sorted(name for name in report["missing_keys"] if not in_head(spec, name))
    if missing:
        known = {*model.state_dict(), *(f"{model.base_model_prefix}.{name}" for name in model.base_model.state_dict())}
        raise UserError(
            f"the weights in {called} lack {listed(missing)}{hint(missing, tensors, known, model.base_model_prefix)}; "
            f"only the head (model.head={spec.head}) may start from random weights"
        )
    if unused := sorted(name for name in report["unexpected_keys"] if in_blocks(model, name)):
        raise UserError(
            f"the weights in {called} hold {listed(unused)}, which the model in its config.json does not have; "
            "use files that belong together"
        )
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in tensors.items():
        if tensor.dtype not in REAL and parameters & {name, f"{model.base_model_prefix}.{name}"}:
            stored_as = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"the weights in {called} are not plain numbers: {name} is {stored_as}; use a float copy")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"model={spec.name} is damaged: {name} contains NaN or Inf; use another copy of the weights"
            )


def check_attention(model: PreTrainedModel, spec: Model) -> None:
    """Raise `UserError` unless ``model.attention`` matches all linear layers of the attention modules it reaches.

    A pattern for another architecture often matches some of them, and methods would adapt only these.
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, LINEAR_TYPES)]
    matched = [name for name in linears if name_matches(spec.attention, name)]
    of_kind, together = {kind(name) for name in matched}, {attention_module(name) for name in matched} - {None}
    left_out = [
        name
        for name in linears
        if name not in matched and (kind(name) in of_kind or attention_module(name) in together or not matched)
    ]
    if left_out:
        raise UserError(
            f"model.attention={spec.attention} does not match all attention layers of this {model.config.model_type}; "
            f"it leaves out: {', '.join(sorted({kind(name) for name in left_out}))}"
        )


def attention_module(name: str) -> str | None:
    """Return the outermost module named like attention that contains a layer: ``layer.0.attention``, or None."""
    found = re.match(r"(?:[^.]*\.)*?[^.]*att[^.]*(?=\.)", name, re.IGNORECASE)
    return found and found.group()


def in_head(spec: Model, name: str) -> bool:
    """Return whether a weight belongs to a module that is declared as the task's head."""
    return name_matches(rf"({spec.head})\..*", name)


def in_blocks(model: PreTrainedModel, name: str) -> bool:
    """Return whether a stored name lies in the model's stack of blocks, with or without the model's prefix."""
    first = transformer_blocks(model)[0]
    [stack] = [own.rpartition(".")[0] for own, module in model.named_modules() if module is first]
    return name.startswith((f"{stack}.", f"{stack.removeprefix(f'{model.base_model_prefix}.')}."))


def hint(missing: Collection[str], stored: Collection[str], known: Collection[str], base: str) -> str:
    """Return words about a prefix of the stored names without which they would be the model's, if there is one."""
    for name in stored:
        words = name.split(".")
        for count in range(1, len(words)):
            prefix = f"{'.'.join(words[:count])}."
            rest = {other.removeprefix(prefix) for other in stored if other.startswith(prefix)}
            rest |= {f"{base}.{other}" for other in rest}
            if rest & set(missing) and rest & set(known):
                return f"; names there begin with {prefix!r}, so save them without it"
    return ""


def listed(names: list[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def shape(sizes: Iterable[int]) -> str:
    """Return a shape as text: 3 x 4."""
    return " x ".join(map(str, sizes)) or "a single number"
