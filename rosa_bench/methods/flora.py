"""Flora: the moments are compressed by a random projection, which is drawn again every ``update_every`` steps.

Source: Hao et al., "Flora: Low-Rank Adapters Are Secretly Gradient Compressors", arXiv 2402.03293, Algorithm 2. A new
projector carries the momentum over. That is right on average, but makes it larger, by the root of the weight's smaller
side over the rank, and so the loss may rise for some ten steps. We differ in that the second moment is Adam's, in the
same small space, where a new projector leaves it as it is; the paper uses Adafactor's. A run of at most
``update_every`` steps keeps its first projector.
"""

from dataclasses import dataclass

from rosa_bench.methods.projected import RandomProjected


@dataclass(frozen=True, kw_only=True)
class Flora(RandomProjected):
    """Updates by ``scale * N P^T`` with a Gaussian P of variance 1/r."""

    @property
    def rule(self) -> str:
        return "galore"
