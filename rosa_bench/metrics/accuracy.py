"""Accuracy: the fraction of examples that are classified correctly."""

import sklearn
from sklearn.metrics import accuracy_score

from rosa_bench.metrics.labels import LabelMetric

SCORES = ("accuracy",)
SIGNATURE = f"accuracy|scikit-learn:{sklearn.__version__}"


class Metric(LabelMetric):
    """``accuracy``, in 0..1."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"accuracy": float(accuracy_score(references, predictions))}
