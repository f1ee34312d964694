"""Find parts of a transformer: those of its blocks by their declared names, others by what they are."""

from collections.abc import Mapping

from torch import nn

from rosa_bench.layers.structure.surgery import name_matches
from rosa_bench.system.errors import UserError


def modules_of(model: nn.Module, parts: Mapping[str, str] | None, part: str, *, method: str) -> list[nn.Module]:
    """Return the modules whose names end in a match of ``parts[part]``, in the model's order.

    Raises `UserError` if the declaration does not have the part or if nothing matches it.
    """
    pattern = (parts or {}).get(part)
    if pattern is None:
        raise UserError(
            f"method={method} needs model.parts.{part}, the names of these modules, which this model does not declare; "
            "add it, or choose another model or method"
        )
    found = [module for name, module in model.named_modules() if name_matches(pattern, name)]
    if not found:
        raise UserError(f"model.parts.{part}={pattern} matches no module of this model; correct it")
    return found


def hidden_size(model: nn.Module, *, method: str) -> int:
    """Return the width of a transformer's hidden states. Raises `UserError` for another kind of model."""
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    if width is None:
        raise UserError(f"method={method} is for transformers; choose one with model=, or another method")
    return width


def output_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer that computes the logits of a language model, or None for any other model."""
    return getattr(model, "get_output_embeddings", lambda: None)()  # pyrefly: ignore[not-callable]


def norms(model: nn.Module) -> list[nn.Module]:
    """Return the normalisation layers: the modules whose own ``weight`` is a vector."""
    return [
        module
        for module in model.modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.ndim == 1
    ]
