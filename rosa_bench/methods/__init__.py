"""Fine-tuning methods: what trains, and what happens to the weights on the way. One file a method."""

from rosa_bench.methods.base import Method

__all__ = ["Method"]
