"""Score generated texts by their n-gram overlap with references: BLEU and NIST.

These are the E2E challenge's scores that do not need Java. Its METEOR is a Java program, and its ROUGE-L and CIDEr use
a Java tokenizer. The same formulas on other tokens would give different scores under the same names.
"""

from collections.abc import Sequence
from itertools import zip_longest

import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from rosa_bench.metrics.nist import ORDER, corpus_nist
from rosa_bench.system.version import __version__

SCORES = ("bleu", "bleu_cased", "nist")


def score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score a corpus: ``bleu`` (lower-cased) and ``bleu_cased``, in 0..1, and ``nist`` (lower-cased), in bits.

    Each text is compared with all of its references; their number may vary. ``bleu`` equals the score of the ROSA
    authors' scorer. Raises `ValueError` if there are no texts or a text has no reference.
    """
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(
            f"got {len(texts)} texts and {len(references)} lists of references; each text needs at least one reference"
        )
    return {
        "bleu": _bleu(lowercase=True).corpus_score(texts, _streams(references)).score / 100,
        "bleu_cased": _bleu(lowercase=False).corpus_score(texts, _streams(references)).score / 100,
        "nist": corpus_nist([_tokens(text) for text in texts], [[_tokens(ref) for ref in refs] for refs in references]),
    }


def _bleu(*, lowercase: bool) -> BLEU:
    return BLEU(lowercase=lowercase, force=True)  # no warning if a text ends in " ."


def _streams(references: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Transpose the references: the first of every text, the second, and so on, with None for missing ones.

    sacrebleu would take "" as a reference, and then not penalise an output of a few words for being short.
    """
    return list(zip_longest(*references))


_tokenize = Tokenizer13a()  # as in mteval-v13a


def _tokens(text: str) -> list[str]:
    return _tokenize(text.lower().rstrip()).split()


def _signature(bleu: BLEU) -> str:
    """Return sacrebleu's signature without ``nrefs``, which depends on the data and is ``var`` for E2E."""
    bleu.corpus_score([""], [[""]])  # it has no signature before this
    return str(bleu.get_signature()).removeprefix("nrefs:1|")


SIGNATURE = "; ".join(
    (
        f"bleu={_signature(_bleu(lowercase=True))}",
        f"bleu_cased={_signature(_bleu(lowercase=False))}",
        f"nist=case:lc|tok:13a|n:{ORDER}|sacrebleu:{sacrebleu.__version__}|rosa-bench:{__version__}",
    )
)
