import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist as nltk_nist

from rosa_bench.metrics.nist import corpus_nist

LOG2_3 = math.log2(3)
Corpus = list[tuple[list[str], list[list[str]]]]

tokens = st.lists(st.sampled_from("abcd"), max_size=9)
corpora = st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=6)


def nist(*pairs: tuple[str, Sequence[str]]) -> float:
    """NIST of texts, each with its references."""
    return corpus_nist([text.split() for text, _ in pairs], [[ref.split() for ref in refs] for _, refs in pairs])


def of(corpus: Corpus) -> float:
    return corpus_nist([text for text, _ in corpus], [refs for _, refs in corpus])


@pytest.mark.parametrize(("pairs", "expected"), [
    # Each of three words carries log2(3) bits; the next word is then certain.
    ([("a b c", ["a b c"])], LOG2_3),
    # Four distinct words in the references, 2 bits each; the text has one word from each reference.
    ([("a b", ["a c", "d b"])], 2),
    # Matches are limited by the largest count in one reference; "a" is two of four words: 1 bit.
    ([("a a", ["a x", "a y"])], 1 / 2),
    # "a": log2(3 / 2) bits, two of three match. "a a": 1 bit, as another word may follow "a"; one of two matches.
    ([("a a a", ["a a b"])], 2 / 3 * math.log2(3 / 2) + 1 / 2),
    # Two thirds of the references' mean length: penalty 0.5.
    ([("a b", ["a b c"])], LOG2_3 / 2),
    ([("a b", ["a b c d", "a b"])], LOG2_3 / 2),
    # All references count for the information ("a" and "b" are three of eight words, "c" and "d" one each), but several
    # references do not increase the length penalty.
    ([("a b", ["a b", "a b", "a b"]), ("c d", ["c d"])], (2 * math.log2(8 / 3) + 2 * 3) / 4),
    # Extra words add n-grams that do not match, but no other penalty.
    ([("a b c z z z", ["a b c"])], 3 * LOG2_3 / 6),
    # An empty text counts through the length of its references.
    ([("a b", ["a b"]), ("", ["c"])], LOG2_3 / 2),
    ([("", ["a b"])], 0),
    ([("z", ["a b"])], 0),
    ([("a", [""])], 0),
])  # fmt: skip
def test_nist_by_hand(pairs: list[tuple[str, list[str]]], expected: float) -> None:
    assert nist(*pairs) == pytest.approx(expected)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), min_size=5, max_size=12), tokens), min_size=1, max_size=6))
def test_with_one_reference_it_equals_nltk(pairs: list[tuple[list[str], list[str]]]) -> None:
    texts, references = ([*column] for column in zip(*pairs, strict=True))
    if any(references):
        expected = nltk_nist([[reference] for reference in references], texts)
        assert corpus_nist(texts, [[reference] for reference in references]) == pytest.approx(expected, abs=1e-12)


@given(corpora, st.randoms())
def test_order_of_texts_and_references_does_not_matter(corpus: Corpus, shuffled: random.Random) -> None:
    other = [(text, shuffled.sample(refs, len(refs))) for text, refs in corpus]
    shuffled.shuffle(other)
    assert of(other) == pytest.approx(of(corpus))
