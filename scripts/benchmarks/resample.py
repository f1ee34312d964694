"""Time and memory of a resample against one SVD per weight, by size of the weights.

    python -m scripts.benchmarks.resample [results/benchmarks]

Prints a table and writes it as JSON. Times are medians; compare their ratios within one run. On a GPU: 48 weights of
768 x 768 (RoBERTa-base's attention) and 128 of 4096 x 4096 (Llama-2-7B's; a few are timed and the time is scaled up).
On a CPU: 24 of 384 x 384 (MiniLM-L6's) and 48 of 768 x 768 (likewise scaled up).
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rosa_bench.lowrank import WORKSPACE, factorize, stacks
from scripts.arguments import RESULTS, existing_folder, start
from scripts.reporting import Figures, interleaved, with_extra_bytes, write_report

RANK = 8
FLOAT32_BYTES = 4


def main(folder: Path = RESULTS) -> None:
    """Run every benchmark, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        figures = {
            "48 of 768 x 768": cost(48, 768, device, repeats=5),
            "48 of 768 x 768, 1 GiB": cost(48, 768, device, repeats=5, headroom_bytes=1 << 30),
            "128 of 4096 x 4096": cost(128, 4096, device, repeats=1, timed=4, headroom_bytes=1),  # one by one
        }
    else:
        figures = {
            "24 of 384 x 384": cost(24, 384, device, repeats=3),
            "48 of 768 x 768": cost(48, 768, device, repeats=1, timed=6),
        }
    write_report("resample", figures, folder=folder, what=__doc__, device=device)


def cost(
    count: int,
    size: int,
    device: torch.device,
    *,
    repeats: int,
    timed: int | None = None,
    headroom_bytes: int | None = None,
) -> Figures:
    """Return seconds to factorise ``count`` square weights along random directions: ours, and by one SVD each.

    With ``timed``, only that many weights are timed and the time is scaled up. ``headroom_bytes`` bounds the memory on
    a GPU. Extra memory is in units of one weight in float32.
    """
    measured = timed or count
    weights = torch.randn(measured, size, size, generator=torch.Generator().manual_seed(0)).to(device) / size**0.5
    ours = partial(factorized, weights, headroom_bytes or WORKSPACE * 2 * FLOAT32_BYTES * weights.numel())
    times = interleaved({"ours_s": ours, "svd_loop_s": partial(by_svd, weights)}, repeats=repeats)
    figures = {name: time_s * count / measured for name, time_s in times.items()}
    figures["speedup"] = figures["svd_loop_s"] / figures["ours_s"]
    if device.type == "cuda":
        figures["extra_memory_weights"] = with_extra_bytes(ours, device)[1] / (FLOAT32_BYTES * size**2)
    return figures


def factorized(weights: Tensor, headroom_bytes: int) -> None:
    """Factorise all weights as ROSA's resample does, in batches that fit into ``headroom_bytes``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [weight.shape for weight in weights]
    for positions in stacks(shapes, limit_bytes=headroom_bytes // WORKSPACE if weights.is_cuda else 1 << 23):
        factorize(weights[positions[0] : positions[-1] + 1], RANK, generator=generator)


def by_svd(weights: Tensor) -> None:
    """Compute a full SVD of each weight in turn, as the authors' code does."""
    for weight in weights:
        torch.linalg.svd(weight, full_matrices=False)


if __name__ == "__main__":
    start(main, __doc__, existing_folder)
