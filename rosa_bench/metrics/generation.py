"""BLEU and NIST of generated texts, each compared with all of its references."""

import datasets
import evaluate

from rosa_bench.metrics import text_overlap as overlap

SCORES = overlap.SCORES
SIGNATURE = overlap.SIGNATURE


class Metric(evaluate.Metric):
    """``bleu`` (lower-cased) and ``bleu_cased``, in 0..1, and ``nist``, in bits, at least 0."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions: one text per input; references: a list of one or more texts per input",
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return overlap.score(predictions, references)
