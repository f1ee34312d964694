"""Accuracy: the fraction of examples that are classified correctly."""

from importlib.metadata import version

INPUTS = "labels"
SCORES = ("accuracy",)
SIGNATURE = f"accuracy|scikit-learn:{version('scikit-learn')}"


def compute(predictions: list[int], references: list[int]) -> dict[str, float]:
    """Return ``accuracy``, in 0..1."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(references, predictions))}
