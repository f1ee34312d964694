"""How much of a weight's input lies along the directions that ROSA trains.

    python -m scripts.studies.input_energy task=cola model=mpnet_base protocol=fair data_dir=~/data

ROSA's product A B starts as some of a weight's singular triplets, so each row v of B is a right singular vector. The
output's change for an input x, after a step on A, grows with v x. For each kind of adapted layer, over the tokens of
the selection rows, this script reports the mean square of v x over the ``rank`` largest and smallest triplets, relative
to that over all triplets (1 is expected for random ones). It also reports the share that is the square of the mean,
which is the same for every token. Figures are means over layers, and the largest of any layer. Source of figures in
docs/explanations.md. A minute on two CPU cores.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.api import compose, resolve
from rosa_bench.data.batches import Batch
from rosa_bench.methods.rosa import Rosa
from scripts.arguments import setting, start
from scripts.reporting import Figures, write_report


class Inputs(NamedTuple):
    """Statistics of a layer's input over tokens: the mean of x (in,), and of x xᵀ (in, in), in float64."""

    mean: Tensor
    second: Tensor


def main(*overrides: str) -> None:
    """Measure, print, and write to results/benchmarks."""
    config = compose([*overrides, "method=rosa", "device=cpu"])
    assert isinstance(config.method, Rosa)
    problem = config.task.prepare(resolve(config).context)
    layers = {name: problem.model.get_submodule(name) for name in config.method.target_names(problem.model)}
    batches = problem.select.batches.epoch()  # pyrefly: ignore[missing-attribute]
    kinds: dict[str, list[Figures]] = defaultdict(list)
    for name, inputs in inputs_of(problem.model, layers, batches).items():
        weight = problem.model.get_parameter(f"{name}.weight")
        for end, figures in energies(weight, inputs, rank=config.method.rank).items():
            kinds[f"{name.rpartition('.')[2]}, {end}"].append(figures)
    name = f"input_energy_{config.task.name}_{config.model.name}_r{config.method.rank}"
    figures = {kind: over_layers(found) for kind, found in kinds.items()}
    write_report(name, figures, what=__doc__, device=torch.device("cpu"))


@torch.no_grad()
def inputs_of(model: PreTrainedModel, layers: Mapping[str, nn.Module], batches: Iterable[Batch]) -> dict[str, Inputs]:
    """Return statistics of each layer's input over these rows, without padding."""
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
    """Return the energies along the largest and smallest triplets of a weight (out, in), and along all."""
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
    """Return the means of several layers' figures, and the largest energy."""
    means = {key: fmean(figures[key] for figures in found) for key in found[0]}
    return {**means, "greatest energy": max(figures["energy"] for figures in found)}


if __name__ == "__main__":
    start(main, __doc__, rest=setting)
