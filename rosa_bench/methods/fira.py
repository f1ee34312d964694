"""Fira: GaLore's update, plus the part of the gradient outside the projector, scaled as Adam scales the part inside.

Source: Chen et al., "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?", arXiv 2410.01623,
Algorithm 1, with its limit on the growth of a norm. ``scale`` multiplies both parts. In the authors' code the rest is
``G - scale G P P^T``, and not scaled itself: with the default scale it weighs four times as much there.
"""

from dataclasses import dataclass

from rosa_bench.methods.projected import GradientProjected


@dataclass(frozen=True, kw_only=True)
class Fira(GradientProjected):
    """Updates by ``scale * (N P^T + s (G - G P P^T))``, where s is the ratio of N's norm to that of G P, by row."""

    @property
    def rule(self) -> str:
        return "fira"
