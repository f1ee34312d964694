"""GaLore: every weight trains, and Adam's moments live in the leading directions of the gradient.

Source: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv 2403.03507.
The defaults are the authors' for pretraining. Their example for GLUE has a scale of 4, at rank 4 and a learning rate of
3e-5, and a new projector every 500 steps.
"""

from dataclasses import dataclass

from rosa_bench.methods.projected import GradientProjected


@dataclass(frozen=True, kw_only=True)
class Galore(GradientProjected):
    """Updates by ``scale * N P^T``, where N is Adam's direction for the projected gradient."""

    @property
    def rule(self) -> str:
        return "galore"
