"""Starts of LoRA's factors from data, from a few batches of the training rows.

Sources: Paischer et al., "One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation" (EVA),
arXiv 2410.07170. Wang et al., "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", arXiv 2407.05000. Both use
PEFT's own functions. We differ in that the model is in evaluation mode, so that dropout does not add noise, and that
EVA also looks at the positions whose labels do not count.

PEFT's LoRA-GA differs from the paper's Algorithm 1. With the gradient's SVD ``U S V^T``, both multiply U's columns by
``out^(1/4) / gamma^(1/2)``. PEFT multiplies them by their singular values too, and V's rows by nothing, where the
paper has the same factor for both. So the factor of shape (out, r) starts near zero if the gradient is small. The SVD
is a randomised one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

Batches = Sequence[Mapping[str, "Tensor"]]
MOST_PASSES = 20  # over the batches, until EVA's directions no longer turn


def eva(model: nn.Module, config: Any, batches: Batches) -> Callable[[Any], None]:
    """Return a function that sets each A to the main directions of its layer's inputs, and each rank to their share.

    Raises `UserError` if a target has no inputs, or fewer directions than its rank.
    """
    from peft import get_eva_state_dict, initialize_lora_eva_weights
    from peft.tuners.lora.eva import prepare_layer_inputs_fn_language_modeling as at_text

    if idle := uncalled(model, sorted(config.target_modules), batches[0]):
        raise UserError(f"EVA needs inputs, and the model does not call {idle[0]}; choose others with method.targets=")
    passes = 0

    def forward(net: nn.Module, batch: dict[str, Tensor]) -> Any:
        nonlocal passes
        passes += 1
        if passes > MOST_PASSES * len(batches):
            raise UserError(
                f"EVA finds no {config.r} directions in {len(batches)} batches; "
                "use more method.calibration_batches, a larger batch_size or a smaller rank"
            )
        return net(**batch)

    found = get_eva_state_dict(
        model,
        [dict(batch) for batch in batches],
        peft_config=config,
        forward_fn=forward,
        prepare_model_inputs_fn=lambda batch, _config: visible(batch).nonzero(),
        prepare_layer_inputs_fn=at_text,
        show_progress_bar=False,
    )
    directions = {f"model.{name}": matrix.cpu() for name, matrix in found.items()}  # the tuner holds the model
    return lambda tuner: initialize_lora_eva_weights(tuner, eva_state_dict=directions)


def uncalled(model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]) -> list[str]:
    """Return those of the named layers that a pass through the model does not call."""
    import torch

    from rosa_bench.layers.structure.evaluating import evaluating

    left = dict.fromkeys(names)
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: left.pop(name, None)) for name in names
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return list(left)


def visible(batch: Mapping[str, Tensor]) -> Tensor:
    """Return which positions are not padding, (rows, tokens). A batch without padding has no mask."""
    import torch

    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def lora_ga(model: nn.Module, config: Any, batches: Batches) -> Callable[[Any], None]:
    """Leave each target's mean gradient where PEFT's layer reads it, which then takes A and B from its SVD.

    A target that the loss does not use has a gradient of zeros, and so arbitrary directions. Raises `UserError` if a
    weight has fewer than ``2 r`` directions, which A and B share.
    """
    import torch

    from rosa_bench.layers.structure.evaluating import evaluating

    targets = {name: model.get_submodule(name) for name in sorted(config.target_modules)}
    weights: list[nn.Parameter] = [target.weight for target in targets.values()]  # pyrefly: ignore[bad-assignment]
    for name, weight in zip(targets, weights, strict=True):
        rows, columns = weight.shape
        if 2 * config.r > min(rows, columns):
            raise UserError(
                f"rank={config.r} does not fit {name}, a {rows} x {columns} weight, of whose gradient LoRA-GA takes "
                f"twice as many directions; use a rank of at most {min(rows, columns) // 2}, or other layers with "
                "method.targets="
            )
        weight.requires_grad_(True)
    sums = [torch.zeros_like(weight) for weight in weights]
    with evaluating(model):
        for batch in batches:
            loss = model(**batch).loss
            if loss is None:
                raise UserError(
                    "LoRA-GA needs the gradient of a loss, and a batch has no labels; give batches with labels"
                )
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
    for target, weight, total in zip(targets.values(), weights, sums, strict=True):
        weight.requires_grad_(False)
        target._peft_loraga_grad = (total / len(batches)).cpu()
    return lambda _tuner: None


# By PEFT's ``init_lora_weights``.
START: dict[Any, Callable[[nn.Module, Any, Batches], Callable[[Any], None]]] = {"eva": eva, "lora_ga": lora_ga}
