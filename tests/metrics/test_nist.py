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
    """Of texts, each with its references."""
    return corpus_nist([text.split() for text, _ in pairs], [[ref.split() for ref in refs] for _, refs in pairs])


def of(corpus: Corpus) -> float:
    return corpus_nist([text for text, _ in corpus], [refs for _, refs in corpus])


@pytest.mark.parametrize(("pairs", "expected"), [
    # Each of three words tells log2(3) bits; after it, its successor is sure.
    ([("a b c", ["a b c"])], LOG2_3),
    # The references hold four words, all different: 2 bits each, and the text takes one from either reference.
    ([("a b", ["a c", "d b"])], 2),
    # Found only as often as in the reference that has it most often; "a" is two of four words: 1 bit.
    ([("a a", ["a x", "a y"])], 1 / 2),
    # "a": log2(3 / 2) bits, two of three count; "a a": 1 bit, for another word may follow "a", and one of two counts.
    ([("a a a", ["a a b"])], 2 / 3 * math.log2(3 / 2) + 1 / 2),
    # Two thirds of the references' mean length: half.
    ([("a b", ["a b c"])], LOG2_3 / 2),
    ([("a b", ["a b c d", "a b"])], LOG2_3 / 2),
    # Every reference counts for what a word tells ("a" and "b" are three of eight, "c" and "d" one), but no text is too
    # short for having several.
    ([("a b", ["a b", "a b", "a b"]), ("c d", ["c d"])], (2 * math.log2(8 / 3) + 2 * 3) / 4),
    # Words too many are so many n-grams in vain, without a penalty of their own.
    ([("a b c z z z", ["a b c"])], 3 * LOG2_3 / 6),
    # A text of no words counts through the words that it should have.
    ([("a b", ["a b"]), ("", ["c"])], LOG2_3 / 2),
    ([("", ["a b"])], 0),
    ([("z", ["a b"])], 0),
    ([("a", [""])], 0),
])  # fmt: skip
def test_nist_by_hand(pairs: list[tuple[str, list[str]]], expected: float) -> None:
    assert nist(*pairs) == pytest.approx(expected)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), min_size=5, max_size=12), tokens), min_size=1, max_size=6))
def test_with_one_reference_each_it_is_nltks(pairs: list[tuple[list[str], list[str]]]) -> None:
    texts, references = ([*column] for column in zip(*pairs, strict=True))
    if any(references):
        expected = nltk_nist([[reference] for reference in references], texts)
        assert corpus_nist(texts, [[reference] for reference in references]) == pytest.approx(expected, abs=1e-12)


@given(corpora, st.randoms())
def test_the_order_of_texts_and_of_references_does_not_matter(corpus: Corpus, shuffled: random.Random) -> None:
    other = [(text, shuffled.sample(refs, len(refs))) for text, refs in corpus]
    shuffled.shuffle(other)
    assert of(other) == pytest.approx(of(corpus))
