"""How far a model can move its output while its head and the layer normalisation before it stay frozen.

    python -m scripts.studies.frozen_head task=stsb model=mpnet_base data_dir=~/data

Protocol ``paper`` freezes the head as it was drawn, and no method but full fine-tuning trains the layer normalisation
that the head reads. Whatever the layers before it do, it gives a vector on one ellipsoid, so the output is bounded. A
regression whose labels lie beyond can do no better than to put every row at the bound. Of a classifier: the difference
of the last two classes' logits. Figures of docs/explanations.md come from here. Some seconds a draw of the head.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.api import compose, resolve
from scripts.reporting import Figures, write_report

SEEDS = (0, 1, 2)
ITERATIONS = 20


def main() -> None:
    """Print the bounds for some draws of the head, and write them to results/benchmarks."""
    config = compose([*sys.argv[1:], "protocol=paper", "device=cpu"])
    figures = {}
    for seed in SEEDS:
        resolved = resolve(replace(config, seed=seed))
        figures[f"seed {seed}"] = bounds(config.task.prepare(resolved.context).model)
    name = f"frozen_head_{config.task.name}_{config.model.name}"
    write_report(name, figures, folder=Path("results/benchmarks"), what=__doc__, device=torch.device("cpu"))


def bounds(model: PreTrainedModel) -> Figures:
    """The least and the greatest output that can be reached."""
    model.eval().requires_grad_(False)
    norm = last_norm(model)
    return {"least": -reached(model, norm, sign=-1), "greatest": reached(model, norm, sign=1)}


def last_norm(model: PreTrainedModel) -> nn.LayerNorm:
    """The layer normalisation that is computed last."""
    seen: list[nn.LayerNorm] = []
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda module, _inputs: seen.append(module)) for norm in norms]  # pyright: ignore[reportArgumentType]
    output_of(model)
    for hook in hooks:
        hook.remove()
    return seen[-1]


def reached(model: PreTrainedModel, norm: nn.LayerNorm, *, sign: int) -> float:
    """The greatest value of the output times ``sign``, over all that could come into ``norm``.

    Each step goes where the output's linear part is greatest: after one it is there where the head is linear, and a
    head's tanh bends little.
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
        direction /= direction.std()  # the normalisation's eps would be felt by a short vector
    return best


def put(vector: Tensor, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """In the place of a module's output, the same vector for every token."""
    return vector.expand_as(output)


def output_of(model: PreTrainedModel) -> Tensor:
    """A regression's output for some tokens, or the logit of the last class less that of the one before."""
    logits = model(input_ids=torch.full((1, 4), 5)).logits[0]
    return logits[0] if len(logits) == 1 else logits[-1] - logits[-2]


if __name__ == "__main__":
    main()
