"""How much of what a weight is given lies along the directions that ROSA trains.

    python -m scripts.studies.input_energy task=cola model=mpnet_base protocol=fair data_dir=~/data

ROSA trains a product A B that starts as some of a weight's singular triplets, so each row v of B is a right singular
vector, and what a step on A does to the output for an input x grows with v x. Of each kind of adapted layer, over the
tokens of the rows that select: the mean square of v x over the ``rank`` largest and the smallest triplets, over that of
all (random ones are expected to have 1); and which part of it is the square of the mean, so that it is the same for
every token of every sentence. Means over layers, and the most there is in one. Figures of docs/explanations.md come
from here. A minute on two CPU cores.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.api import compose, resolve
from rosa_bench.data.batches import Batch
from rosa_bench.methods.rosa import Rosa
from scripts.reporting import Figures, write_report


class Inputs(NamedTuple):
    """What a layer is given, over tokens: the mean of x (in,), and of x xᵀ (in, in), in float64."""

    mean: Tensor
    second: Tensor


def main() -> None:
    """Measure, print, and write to results/benchmarks."""
    config = compose([*sys.argv[1:], "method=rosa", "device=cpu"])
    assert isinstance(config.method, Rosa)
    problem = config.task.prepare(resolve(config).context)
    layers = {name: problem.model.get_submodule(name) for name in config.method.target_names(problem.model)}
    batches = problem.select.batches.epoch()  # pyright: ignore[reportAttributeAccessIssue]
    kinds: dict[str, list[Figures]] = defaultdict(list)
    for name, inputs in inputs_of(problem.model, layers, batches).items():
        weight = problem.model.get_parameter(f"{name}.weight")
        for end, figures in energies(weight, inputs, rank=config.method.rank).items():
            kinds[f"{name.rpartition('.')[2]}, {end}"].append(figures)
    name = f"input_energy_{config.task.name}_{config.model.name}_r{config.method.rank}"
    figures = {kind: over_layers(found) for kind, found in kinds.items()}
    write_report(name, figures, folder=Path("results/benchmarks"), what=__doc__, device=torch.device("cpu"))


@torch.no_grad()
def inputs_of(model: PreTrainedModel, layers: Mapping[str, nn.Module], batches: Iterable[Batch]) -> dict[str, Inputs]:
    """What each layer is given as the model reads these rows; padding is not counted."""
    sums: dict[str, Inputs] = {}
    tokens = torch.tensor(0)

    def add(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0][kept].double()  # (tokens, in)
        total = Inputs(x.sum(0), x.mT @ x)
        sums[name] = Inputs(*map(torch.add, sums[name], total)) if name in sums else total

    hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in layers.items()]
    model.eval()
    for batch in batches:
        rows = {name: tensor for name, tensor in batch.items() if name != "labels"}
        kept = rows["attention_mask"].bool() if "attention_mask" in rows else torch.ones_like(rows["input_ids"]).bool()
        tokens += kept.sum()
        model(**rows)
    for hook in hooks:
        hook.remove()
    return {name: Inputs(total.mean / tokens, total.second / tokens) for name, total in sums.items()}


@torch.no_grad()
def energies(weight: Tensor, inputs: Inputs, *, rank: int) -> dict[str, Figures]:
    """Of the largest and the smallest triplets of a weight (out, in), and of all."""
    directions = torch.linalg.svd(weight.double(), full_matrices=False).Vh  # (triplets, in)
    square = torch.einsum("ti,ij,tj->t", directions, inputs.second, directions)
    constant = (directions @ inputs.mean) ** 2
    ends = {"largest": slice(None, rank), "smallest": slice(-rank, None), "all": slice(None)}
    return {
        end: {
            "energy": (square[chosen].mean() / square.mean()).item(),
            "same for every token": (constant[chosen].sum() / square[chosen].sum()).item(),
        }
        for end, chosen in ends.items()
    }


def over_layers(found: list[Figures]) -> Figures:
    """The means of several layers' figures, and the greatest energy."""
    means = {key: fmean(figures[key] for figures in found) for key in found[0]}
    return {**means, "greatest energy": max(figures["energy"] for figures in found)}


if __name__ == "__main__":
    main()
