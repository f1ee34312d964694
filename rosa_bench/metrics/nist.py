"""The NIST score of generated texts: the information in the n-grams that they share with their references.

Source: G. Doddington, "Automatic Evaluation of Machine Translation Quality Using N-gram Co-Occurrence Statistics",
2002, Equations 2 and 3; several references are pooled as in mteval-v13a.pl. The score equals that of the E2E
challenge's ``measure_scores.py -p``. Without ``-p`` that script counts missing references as empty ones in the penalty,
which then hardly ever applies. NLTK's ``corpus_nist`` uses the single best reference for each order, which gives
another score, and fails if no text has five tokens.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

Tokens: TypeAlias = Sequence[str]

ORDER = 5
# Makes the penalty 0.5 for texts with two thirds as many words as their references.
BETA = math.log(2) / math.log(1.5) ** 2


def corpus_nist(texts: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Compute the NIST score of a corpus, in bits, from 0 upwards. Each text has one or more references.

    The score sums, over orders 1 to 5, the information of the matching n-grams divided by the number of n-grams in the
    texts. It is multiplied by a penalty if the texts are shorter in total than their references on average.
    """
    orders = range(1, ORDER + 1)
    pooled = list(chain.from_iterable(references))
    counts = Counter(gram for ref in pooled for n in orders for gram in _grams(ref, n))
    counts[()] = sum(map(len, pooled))
    matched_bits = dict.fromkeys(orders, 0.0)
    totals = dict.fromkeys(orders, 0)
    for text, refs in zip(texts, references, strict=True):
        for n in orders:
            grams = Counter(_grams(text, n))
            allowed: Counter[Tokens] = Counter()
            for ref in refs:
                allowed |= Counter(_grams(ref, n))  # the largest count in any single reference
            matched_bits[n] += sum(times * _information_bits(gram, counts) for gram, times in (grams & allowed).items())
            totals[n] += grams.total()
    length = sum(map(len, texts))
    expected = sum(sum(map(len, refs)) / len(refs) for refs in references)
    return _penalty(length, expected) * sum(matched_bits[n] / totals[n] for n in orders if totals[n])


def _grams(tokens: Tokens, n: int) -> list[Tokens]:
    """Return the n-grams of a text in order; an empty list if it has fewer than ``n`` tokens."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def _information_bits(gram: Tokens, counts: Counter[Tokens]) -> float:
    """Return the information of the last token given the previous ones, from the references' counts. Equation 2."""
    return math.log2(counts[gram[:-1]] / counts[gram])


def _penalty(length: int, expected: float) -> float:
    """Return the factor for texts with ``length`` tokens whose references average ``expected``. Equation 3."""
    if length == 0:
        return 0.0
    return math.exp(-BETA * math.log(min(1.0, length / expected)) ** 2) if expected else 1.0
