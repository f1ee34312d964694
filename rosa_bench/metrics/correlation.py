"""Pearson and Spearman correlation between predicted and true values."""

import numpy as np
import scipy
from scipy.stats import pearsonr, spearmanr

from rosa_bench.metrics.labels import LabelMetric

SCORES = ("pearson", "spearman")
UNDEFINED_IF_CONSTANT = SCORES
SIGNATURE = f"pearson+spearman|scipy:{scipy.__version__}"


class Metric(LabelMetric):
    """``pearson`` and ``spearman``, in -1..1; 0 if either side is constant, where both are undefined."""

    label_type = "float64"

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(pearsonr(predictions, references).statistic),  # pyright: ignore[reportAttributeAccessIssue]
            "spearman": float(spearmanr(predictions, references).statistic),  # pyright: ignore[reportAttributeAccessIssue]
        }
