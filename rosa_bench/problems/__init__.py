"""What a run works on, made from a task, a model and a protocol. One file a kind of task."""

from rosa_bench.problems import generation, synthetic, text
from rosa_bench.problems.base import Problem, Result, prepare

__all__ = ["Problem", "Result", "generation", "prepare", "synthetic", "text"]
