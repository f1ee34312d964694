"""What a metric is to those who select by it. Imports nothing heavy."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric by its name among a run's scores, and which way is better."""

    name: str
    lower_is_better: bool
