"""ROSA on Figure 2's linear map with every inner minimisation exact: what theory predicts for figure2_period.

    python -m scripts.studies.exact_rosa

Prints validation loss, mean over replicates, after so many factorisations: for the theorem's step (``zero``: nothing is
taken out of the weight) and for Algorithm 1's (``svd``). Figures of docs/theory.md come from here. About two minutes.
"""

import torch
from rich import box, get_console
from rich.table import Table

from rosa_bench.api import compose, resolve
from rosa_bench.data.batches import Batches
from rosa_bench.tasks.regression.theory import algorithm1

STEPS = (1, 5, 24, 25, 100)
RANKS = (1, 2, 4, 6, 8)


def main() -> None:
    """Make the problem that the runs are trained on, and solve it step by step."""
    config = compose(["task=synthetic", "model=mlp1", "method=rosa"])
    problem = config.task.prepare(resolve(config).context)
    [weight] = problem.model.parameters()  # (replicates, out, in)
    (x, y), (dev_x, dev_y) = (layout(batches) for batches in (problem.train, problem.select.batches))  # pyright: ignore[reportAttributeAccessIssue]

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
    """Inputs and labels as theory has them: (replicates, rows, in or out), in float64."""
    return tuple(batches.tensors[name].double().movedim(0, -2) for name in ("inputs", "labels"))  # pyright: ignore[reportReturnType]


if __name__ == "__main__":
    main()
