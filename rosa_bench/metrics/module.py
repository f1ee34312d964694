"""The `evaluate` module of a metric."""

from types import ModuleType

import evaluate
from datasets import Features, List, Value

LABELS = {"predictions": Value("int64"), "references": Value("int64")}
NUMBERS = {"predictions": Value("float64"), "references": Value("float64")}
TEXTS = {"predictions": Value("string"), "references": List(Value("string"))}
KINDS = {"labels": LABELS, "numbers": NUMBERS, "texts": TEXTS}


class Module(evaluate.Metric):
    """Computes what a file of this folder defines, from the kind of inputs that it names in ``INPUTS``."""

    def __init__(self, file: ModuleType, **options: object):
        self.file = file
        super().__init__(**options)  # pyrefly: ignore[bad-argument-type]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.file.__doc__ or "",
            citation="",
            inputs_description=f"predictions and references, one per example: {self.file.INPUTS}",
            features=Features(KINDS[self.file.INPUTS]),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:  # pyrefly: ignore[bad-override]
        return self.file.compute(predictions, references)
