"""BLEU and NIST of generated texts, each compared with all of its references."""

from rosa_bench.metrics import text_overlap as overlap

INPUTS = "texts"
SCORES = overlap.SCORES
SIGNATURE = overlap.SIGNATURE


def compute(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Return ``bleu`` (lower-cased) and ``bleu_cased``, in 0..1, and ``nist``, in bits, at least 0."""
    return overlap.score(predictions, references)
