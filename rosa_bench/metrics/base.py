"""The metric that selects an epoch or a run. Imports nothing heavy."""

from typing import NamedTuple


class Metric(NamedTuple):
    """The name of one of a run's scores, and the direction in which it is better."""

    name: str
    lower_is_better: bool
