"""Flora: the moments are compressed by a random projection, which is drawn again every ``update_every`` steps.

Source: Hao et al., "Flora: Low-Rank Adapters Are Secretly Gradient Compressors", arXiv 2402.03293, Algorithm 2. A new
projector carries the momentum over. We differ in that the second moment is Adam's, in the same small space; the paper
uses Adafactor's. A run of at most ``update_every`` steps keeps its first projector.
"""

from dataclasses import dataclass

from rosa_bench.methods.projected import RandomProjected


@dataclass(frozen=True, kw_only=True)
class Flora(RandomProjected):
    """Updates by ``scale * N P^T`` with a Gaussian P of variance 1/r."""

    @property
    def rule(self) -> str:
        return "galore"
