"""Scores of generated texts by the n-grams that they share with their references: BLEU and NIST.

These are the E2E challenge's scores that need no Java. Its METEOR is a Java program, and its ROUGE-L and CIDEr count
the tokens of one: the same formulas on other tokens would give other figures under the same names.
"""

from collections.abc import Sequence
from itertools import zip_longest

import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from rosa_bench import __version__
from rosa_bench.metrics.nist import ORDER, corpus_nist

FIGURES = ("bleu", "bleu_cased", "nist")


def score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``bleu`` (lower-cased) and ``bleu_cased``, in 0..1, and ``nist`` (lower-cased), in bits, of a whole corpus.

    Each text has one reference or more, not all equally many, and all count. ``bleu`` is what the ROSA authors' scorer
    gives. Raises `ValueError` where there is no text, or one without a reference.
    """
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} lists of references: each text needs one or more")
    return {
        "bleu": _bleu(lowercase=True).corpus_score(texts, _streams(references)).score / 100,
        "bleu_cased": _bleu(lowercase=False).corpus_score(texts, _streams(references)).score / 100,
        "nist": corpus_nist([_tokens(text) for text in texts], [[_tokens(ref) for ref in refs] for refs in references]),
    }


def _bleu(*, lowercase: bool) -> BLEU:
    return BLEU(lowercase=lowercase, force=True)  # as it is, without a warning where a model writes " ." at the end


def _streams(references: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Every text's first reference, every text's second, and so on; None where a text has no more.

    Not "", which sacrebleu takes as one more reference: it would excuse an output of a few words for being short.
    """
    return list(zip_longest(*references))


_tokenize = Tokenizer13a()  # mteval-v13a's


def _tokens(text: str) -> list[str]:
    return _tokenize(text.lower().rstrip()).split()


def _signature(bleu: BLEU) -> str:
    """sacrebleu's, less ``nrefs``: how many references there are is the data's, and ``var`` for E2E."""
    bleu.corpus_score([""], [[""]])  # before which it has none
    return str(bleu.get_signature()).removeprefix("nrefs:1|")


SIGNATURE = "; ".join(
    (
        f"bleu={_signature(_bleu(lowercase=True))}",
        f"bleu_cased={_signature(_bleu(lowercase=False))}",
        f"nist=case:lc|tok:13a|n:{ORDER}|sacrebleu:{sacrebleu.__version__}|rosa-bench:{__version__}",
    )
)
