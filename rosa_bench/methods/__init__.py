"""Fine-tuning methods: what trains, and what happens to the weights during training. One file per method."""

from rosa_bench.methods.base import Method

__all__ = ["Method"]
