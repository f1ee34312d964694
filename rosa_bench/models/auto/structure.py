"""Find the attention projections, the head and the parts of a model from its own modules, without a declaration."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.layers.structure.linear import LINEAR_TYPES, weight_of
from rosa_bench.layers.structure.parts import output_layer
from rosa_bench.layers.structure.surgery import kind
from rosa_bench.system.errors import UserError

NOTHING = "(?!)"  # matches no name
# Models whose one matrix of queries, keys and values is sorted by head, so that no third of its rows is one of them.
SORTED_BY_HEAD = (
    "bloom", "codegen", "deberta", "falcon", "fuyu", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "minimax",
    "persimmon",
)  # fmt: skip
SEPARATE = {  # names of the projections to keys and values where each has a matrix of its own
    "keys": r"k|key|k_proj|key_proj|k_lin",
    "values": r"v|value|v_proj|value_proj|v_lin",
}
INSIDE = r"gate|in_proj|intermediate"  # in names of layers that end no part of a block


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What methods must know about a model, as a declaration in ``conf/model`` says it: patterns for ends of names.

    attention  the projections of attention; `NOTHING` if none are found
    head       the modules beside the body, such as a classifier; not a language model's output layer
    parts      the parts of a transformer block, as far as they are found
    lm_head    the output layer of a language model, if it is one
    fused      how many projections one attention layer holds, for those as wide as three of their inputs
    """

    attention: str = NOTHING
    head: str = NOTHING
    lm_head: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    fused: dict[str, int] = field(default_factory=dict)


def structure_of(model: nn.Module) -> Structure:
    """Return the structure of a model.

    An attention projection is a linear layer inside a module whose name, or whose class's name, says attention. The
    output projection of attention, or of the feed-forward part, is the last linear layer of that part of a block that
    is as wide as the hidden states and not inside the part, as a gate is. Blocks with experts have none of the latter.
    """
    projections, logits = attention_projections(model), output_layer(model)
    return Structure(
        attention=pattern_of(projections),
        head=pattern_of(_head(model)),
        lm_head=next((re.escape(name) for name, module in model.named_modules() if module is logits), None),
        parts=_parts(model, projections),
        fused=_fused(model, projections),
    )


def attention_projections(model: nn.Module) -> list[str]:
    """Return the names of the linear layers inside attention modules, in the model's order.

    ``torch.nn.MultiheadAttention`` reads its layers' weights itself, so they cannot be replaced, and are not returned.
    """
    modules = dict(model.named_modules())
    sealed = [name for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)]
    found = []
    for name, module in modules.items():
        if not isinstance(module, LINEAR_TYPES) or any(name.startswith(f"{one}.") for one in sealed):
            continue
        above = name.split(".")[:-1]
        around = (".".join(above[: end + 1]) for end in range(len(above)))
        if any(_says_attention(place, modules[place]) for place in around):
            found.append(name)
    return found


def pattern_of(names: Iterable[str]) -> str:
    """Return a regular expression for these names, in which layers of a stack differ only in their number."""
    kinds = dict.fromkeys(kind(name, last=True) for name in names)
    return "|".join(re.escape(one).replace(r"\*", r"\d+") for one in kinds) or NOTHING


def check_adaptable(model: nn.Module) -> None:
    """Raise `UserError` unless the model's weights are numbers that a method can be attached to."""
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UserError("this model is quantised, and its weights cannot be merged into; load it without quantisation")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(f"{name} has no values yet; pass one batch through the model first")
        if parameter.is_inference():
            raise UserError(
                f"{name} was made in torch.inference_mode and cannot train; use torch.no_grad there instead"
            )
        if parameter.is_meta:
            raise UserError(
                f"{name} is on the meta device and has no values; load all of the model's weights, and offload none"
            )
        if not parameter.is_floating_point():
            stored_as = str(parameter.dtype).removeprefix("torch.")
            raise UserError(f"{name} is {stored_as}, a quantised weight; load the model without quantisation")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:
            raise UserError(f"{name} is part of a quantised weight; load the model without quantisation")


def _says_attention(name: str, module: nn.Module) -> bool:
    kind = re.sub(r"\w*(Layer|Block)$", "", type(module).__name__)  # a whole block, such as JambaAttentionDecoderLayer
    return re.search(r"attention|attn", f"{name.rpartition('.')[2]} {kind}", re.IGNORECASE) is not None


def _head(model: nn.Module) -> list[str]:
    """Return the children of a transformers model beside its body, except the output layer of a language model."""
    body, logits = getattr(model, "base_model", model), output_layer(model)
    if body is model or not isinstance(body, nn.Module):
        return []
    inside = {id(module) for module in body.modules()}
    return [
        name
        for name, child in model.named_children()
        if id(child) not in inside
        and any(True for _ in child.parameters())
        and not any(module is logits for module in child.modules())
    ]


def _parts(model: nn.Module, projections: list[str]) -> dict[str, str]:
    """Return the parts of the blocks of the main stack that are found in every block."""
    try:
        blocks = transformer_blocks(model)
    except UserError:
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, list[str]] = {
        part: [] for part in ("attention", *SEPARATE, "attention_output", "feed_forward_output")
    }
    for block in blocks:
        place = names[id(block)]
        own = [name for name in projections if name.startswith(f"{place}.")]
        linears = [name for name, module in block.named_modules(prefix=place) if isinstance(module, LINEAR_TYPES)]
        others = [name for name in linears if name not in own]
        found["attention"] += [name.rpartition(".")[0] for name in own[:1]]
        for part, pattern in SEPARATE.items():
            found[part] += [name for name in own if re.fullmatch(pattern, name.rpartition(".")[2])]
        found["attention_output"] += _outputs(model, own)[-1:]
        if not any("expert" in name for name, _ in block.named_modules()):  # their sum is no layer's output
            found["feed_forward_output"] += _outputs(model, others)[-1:]
    return {part: pattern_of(places) for part, places in found.items() if len(places) == len(blocks)}


def _fused(model: nn.Module, projections: list[str]) -> dict[str, int]:
    """Return the kinds of layers whose rows are the queries, then the keys, then the values."""
    if getattr(getattr(model, "config", None), "model_type", None) in SORTED_BY_HEAD:
        return {}
    return {pattern_of([name]): 3 for name in projections if _is_fused(model.get_submodule(name))}


def _outputs(model: nn.Module, names: list[str]) -> list[str]:
    """Return those of the named layers that may be the output projection of a part of a block."""
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    return [
        name
        for name in names
        if not _is_fused(layer := model.get_submodule(name)) and not re.search(INSIDE, ".".join(name.split(".")[-2:]))
        if width in (None, weight_of(layer).shape[-2])  # pyrefly: ignore[bad-argument-type]
    ]


def _is_fused(module: nn.Module) -> bool:
    rows, columns = weight_of(module).shape[-2:]  # pyrefly: ignore[bad-argument-type]
    return rows == 3 * columns
