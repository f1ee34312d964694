"""APOLLO: the gradient itself, scaled by how Adam would scale a random projection of it.

Source: Zhu et al., "APOLLO: SGD-like Memory, AdamW-level Performance", arXiv 2412.05270, Algorithm 1, with its limit on
the growth of a norm. APOLLO-Mini is ``rank=1 method.scale_by=tensor method.scale=11.3``, the root of 128.
"""

from __future__ import annotations

from dataclasses import dataclass

from rosa_bench.methods.projected import RandomProjected
from rosa_bench.system.setting import setting


@dataclass(frozen=True, kw_only=True)
class Apollo(RandomProjected):
    """Updates by ``scale * s G``, where s is the ratio of the norm of Adam's direction to that of G P."""

    scale_by: str = setting("what has a scale of its own: a channel or the whole weight", choices=("channel", "tensor"))

    @property
    def rule(self) -> str:
        return self.scale_by
