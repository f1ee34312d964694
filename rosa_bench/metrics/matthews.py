"""Matthews correlation between predicted and true classes: 0 for a constant guess, 1 if all are correct."""

from importlib.metadata import version

INPUTS = "labels"
SCORES = ("matthews_correlation", "accuracy")
UNDEFINED_IF_CONSTANT = ("matthews_correlation",)
SIGNATURE = f"matthews_correlation+accuracy|scikit-learn:{version('scikit-learn')}"


def compute(predictions: list[int], references: list[int]) -> dict[str, float]:
    """Return ``matthews_correlation``, in -1..1, and ``accuracy``, in 0..1."""
    from sklearn.metrics import accuracy_score

    return {
        "matthews_correlation": correlation(predictions, references),
        "accuracy": float(accuracy_score(references, predictions)),
    }


def correlation(predictions: list[int], references: list[int]) -> float:
    """Return Matthews' correlation; 0 if labels and predictions are all the same class."""
    from sklearn.metrics import matthews_corrcoef

    constant = len({*references, *predictions}) == 1  # scikit-learn also gives 0, but with a warning
    return 0.0 if constant else float(matthews_corrcoef(references, predictions))
