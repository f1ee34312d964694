"""How far a model can move its output while its head and the preceding layer normalisation stay frozen.

    python -m scripts.studies.frozen_head task=stsb model=mpnet_base data_dir=~/data

Protocol ``paper`` freezes the random head, and only full fine-tuning trains the layer normalisation that the head
reads. The normalisation's output always lies on one ellipsoid, so the model's output is bounded. A regression whose
labels lie beyond the bound can at best put every row at the bound. For a classifier, the output is the difference of
the last two classes' logits. Source of figures in docs/explanations.md. A few seconds per draw of the head.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.api import compose, resolve
from scripts.arguments import setting, start
from scripts.reporting import Figures, write_report

SEEDS = (0, 1, 2)
ITERATIONS = 20


def main(*overrides: str) -> None:
    """Print the bounds for several draws of the head, and write them to results/benchmarks."""
    config = compose([*overrides, "protocol=paper", "device=cpu"])
    figures = {}
    for seed in SEEDS:
        resolved = resolve(replace(config, seed=seed))
        figures[f"seed {seed}"] = bounds(config.task.prepare(resolved.context).model)
    name = f"frozen_head_{config.task.name}_{config.model.name}"
    write_report(name, figures, what=__doc__, device=torch.device("cpu"))


def bounds(model: PreTrainedModel) -> Figures:
    """Return the smallest and the largest possible output."""
    model.eval().requires_grad_(False)
    norm = last_norm(model)
    return {"least": -reached(model, norm, sign=-1), "greatest": reached(model, norm, sign=1)}


def last_norm(model: PreTrainedModel) -> nn.LayerNorm:
    """Return the layer normalisation that is computed last."""
    seen: list[nn.LayerNorm] = []
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda module, _inputs: seen.append(module)) for norm in norms]
    output_of(model)
    for hook in hooks:
        hook.remove()
    return seen[-1]


def reached(model: PreTrainedModel, norm: nn.LayerNorm, *, sign: int) -> float:
    """Return the largest value of the output times ``sign``, over all inputs of ``norm``.

    Each step moves to the maximum of the output's linear approximation. One step is enough for a linear head, and a
    head's tanh is almost linear.
    """
    best, direction = float("-inf"), torch.linspace(-1, 1, *norm.normalized_shape)
    for _ in range(ITERATIONS):
        normed = nn.functional.layer_norm(direction, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        hook = norm.register_forward_hook(partial(put, normed.requires_grad_()))
        value = sign * output_of(model)
        hook.remove()
        best = max(best, value.item())
        [slope] = torch.autograd.grad(value, normed)
        direction = norm.weight * slope
        direction /= direction.std()  # for a short vector, the normalisation's eps would matter
    return best


def put(vector: Tensor, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace a module's output with one vector for every token."""
    return vector.expand_as(output)


def output_of(model: PreTrainedModel) -> Tensor:
    """Return a regression's output for some tokens, or the difference of the last two classes' logits."""
    logits = model(input_ids=torch.full((1, 4), 5)).logits[0]
    return logits[0] if len(logits) == 1 else logits[-1] - logits[-2]


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
