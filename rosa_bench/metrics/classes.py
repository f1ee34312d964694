"""Scores of a classification whose classes may be of any number and any size: accuracy, macro F1 and Matthews."""

from importlib.metadata import version

from rosa_bench.metrics import matthews

INPUTS = "labels"
SCORES = ("accuracy", "macro_f1", "matthews_correlation")
UNDEFINED_IF_CONSTANT = matthews.UNDEFINED_IF_CONSTANT
SIGNATURE = f"accuracy+macro_f1+matthews_correlation|scikit-learn:{version('scikit-learn')}"


def compute(predictions: list[int], references: list[int]) -> dict[str, float]:
    """Return ``accuracy`` and ``macro_f1``, in 0..1, and ``matthews_correlation``, in -1..1.

    Macro F1 is the mean F1 over the classes that occur in labels or predictions; a class never predicted counts 0.
    """
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(references, predictions)),
        "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        "matthews_correlation": matthews.correlation(predictions, references),
    }
