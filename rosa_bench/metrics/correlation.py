"""Pearson and Spearman correlation between predicted and true values."""

from importlib.metadata import version

import numpy as np

INPUTS = "numbers"
SCORES = ("pearson", "spearman")
UNDEFINED_IF_CONSTANT = SCORES
SIGNATURE = f"pearson+spearman|scipy:{version('scipy')}"


def compute(predictions: list[float], references: list[float]) -> dict[str, float]:
    """Return ``pearson`` and ``spearman``, in -1..1; 0 if either side is constant, where both are undefined."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(predictions, references).statistic),
        "spearman": float(spearmanr(predictions, references).statistic),
    }
