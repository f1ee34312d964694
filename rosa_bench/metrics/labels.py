"""What our metrics share as `evaluate` modules: a description, and the type of what they compare."""

from typing import ClassVar

import datasets
import evaluate


class LabelMetric(evaluate.Metric):
    """Compares ``predictions`` with ``references``: class numbers, or values where ``label_type`` says so."""

    label_type: ClassVar[str] = "int64"

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value(self.label_type)
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references, one an example",
            features=datasets.Features({"predictions": label, "references": label}),
        )
