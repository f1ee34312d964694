"""Base class of the `evaluate` modules that compare labels."""

from typing import ClassVar

import datasets
import evaluate


class LabelMetric(evaluate.Metric):
    """Compares ``predictions`` with ``references``: class indices, or values if ``label_type`` is a float."""

    label_type: ClassVar[str] = "int64"

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value(self.label_type)
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references, one per example",
            features=datasets.Features({"predictions": label, "references": label}),
        )
