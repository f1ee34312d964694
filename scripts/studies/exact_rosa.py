"""ROSA on Figure 2's linear map with exact inner minimisations: the theory's prediction for figure2_period.

    python -m scripts.studies.exact_rosa

Prints the validation loss, averaged over replicates, by number of factorisations: for the theorem's step (``zero``:
the residual keeps the whole weight) and for Algorithm 1's (``svd``). Source of figures in docs/theory.md. Two minutes.
"""

import torch
from rich import box, get_console
from rich.table import Table

from rosa_bench.api import compose, resolve
from rosa_bench.data.batches import Batches
from rosa_bench.tasks.regression.theory import algorithm1
from scripts.arguments import start

STEPS = (1, 5, 24, 25, 100)
RANKS = (1, 2, 4, 6, 8)


def main() -> None:
    """Make the same problem that runs train on, and solve it step by step."""
    config = compose(["task=synthetic", "model=mlp1", "method=rosa"])
    problem = config.task.prepare(resolve(config).context)
    [weight] = problem.model.parameters()  # (replicates, out, in)
    (x, y), (dev_x, dev_y) = (layout(batches) for batches in (problem.train, problem.select.batches))  # pyrefly: ignore[missing-attribute]

    table = Table("init", "rank", *(f"after {step}" for step in STEPS), box=box.SIMPLE)
    for init in ("zero", "svd"):
        for rank in RANKS:
            generator = torch.Generator().manual_seed(0)
            start = weight.detach().mT
            weights = algorithm1(x, start, y, rank, max(STEPS), init=init, generator=generator)
            losses = [(dev_x @ weights[step] - dev_y).square().mean().item() for step in STEPS]
            table.add_row(init, str(rank), *(f"{loss:.2e}" for loss in losses))
    get_console().print(table)


def layout(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels in the layout of the theory: (replicates, rows, in or out), in float64."""
    return tuple(batches.tensors[name].double().movedim(0, -2) for name in ("inputs", "labels"))  # pyrefly: ignore[bad-return]


if __name__ == "__main__":
    start(main, __doc__)
