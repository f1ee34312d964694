"""The metric that selects an epoch or a run. Imports nothing heavy."""

from typing import NamedTuple

# Scores that are at most 1, shown times 100. All others are shown as they are.
FRACTIONS = frozenset(
    ("accuracy", "bleu", "bleu_cased", "digit_accuracy", "f1", "macro_f1", "matthews_correlation", "pearson", "recall",
     "spearman")
)  # fmt: skip


class Metric(NamedTuple):
    """The name of one of a run's scores, and the direction in which it is better."""

    name: str
    lower_is_better: bool
