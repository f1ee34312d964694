"""The NIST score of generated texts: how much the n-grams that they share with their references tell.

Source: G. Doddington, "Automatic Evaluation of Machine Translation Quality Using N-gram Co-Occurrence Statistics",
2002, Equations 2 and 3; several references are pooled as in mteval-v13a.pl. It is what the E2E challenge's
``measure_scores.py -p`` gives. Without ``-p`` that counts references that are not there as empty ones in the penalty,
which then hardly ever applies. NLTK's ``corpus_nist`` takes for each order the one best reference, which is another
figure, and fails where no text has five tokens.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

Tokens: TypeAlias = Sequence[str]

ORDER = 5
# So that the penalty is a half where the texts have two thirds of the words that their references have.
BETA = math.log(2) / math.log(1.5) ** 2


def corpus_nist(texts: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """NIST of a corpus, in bits, 0 or more and without an upper bound; each text has one reference or several.

    It is the sum over the orders 1 to 5 of the information of the n-grams found, divided by the number of n-grams in
    the texts; times a penalty where the texts are together shorter than the references are on average.
    """
    orders = range(1, ORDER + 1)
    every = list(chain.from_iterable(references))
    counts = Counter(gram for ref in every for n in orders for gram in _grams(ref, n))
    counts[()] = sum(map(len, every))
    told_bits = dict.fromkeys(orders, 0.0)
    totals = dict.fromkeys(orders, 0)
    for text, refs in zip(texts, references, strict=True):
        for n in orders:
            grams = Counter(_grams(text, n))
            allowed: Counter[Tokens] = Counter()
            for ref in refs:
                allowed |= Counter(_grams(ref, n))  # as often as in the one reference that has it most often
            told_bits[n] += sum(times * _information_bits(gram, counts) for gram, times in (grams & allowed).items())
            totals[n] += grams.total()
    length = sum(map(len, texts))
    wanted = sum(sum(map(len, refs)) / len(refs) for refs in references)
    return _penalty(length, wanted) * sum(told_bits[n] / totals[n] for n in orders if totals[n])


def _grams(tokens: Tokens, n: int) -> list[Tokens]:
    """The n-grams of a text, in their order; none where it is shorter than ``n``."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def _information_bits(gram: Tokens, counts: Counter[Tokens]) -> float:
    """How surprising the last token is after those before it, by the references' counts. Equation 2."""
    return math.log2(counts[gram[:-1]] / counts[gram])


def _penalty(length: int, wanted: float) -> float:
    """The factor for texts of ``length`` tokens where their references have ``wanted`` on average. Equation 3."""
    if length == 0:
        return 0.0
    return math.exp(-BETA * math.log(min(1.0, length / wanted)) ** 2) if wanted else 1.0
