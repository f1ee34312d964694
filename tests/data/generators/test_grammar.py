import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import correlation

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from rosa_bench.data.generators import grammar
from rosa_bench.data.generators.grammar import PHENOMENA, sentences
from rosa_bench.data.generators.grammar_words import FUNCTION_WORDS, TRAIN, VALIDATION
from rosa_bench.data.rows import fingerprint
from rosa_bench.system.errors import UserError

SIZES = {"train": 4000, "validation": 1000}
VOCABULARIES = {"train": TRAIN, "validation": VALIDATION}
SPLITS = tuple(SIZES)
FINGERPRINTS = {
    "train": "2fb280c7a3d7b16e363072e4548c317f57e35545f0a6d6f928f6f353449c3bea",
    "validation": "54bf876db673f2a23ce9a69f0903818d651ff1f6e1ddf68472aabcd815540610",
}
WORD = r"[A-Za-z]+"
OPENS_A_QUESTION = r"(wh\w+|how|is|are|was|were|has|have|did|will|could|should|might)\b"


@cache
def rows_of(split: str, phenomenon: str | None) -> list[dict[str, str | int]]:
    return [row for row in sentences(split) if phenomenon in (None, row["phenomenon"])]


def texts(split: str, phenomenon: str | None = None) -> list[str]:
    return [str(row["sentence"]) for row in rows_of(split, phenomenon)]


def labels(split: str, phenomenon: str | None = None) -> list[int]:
    return [int(row["label"]) for row in rows_of(split, phenomenon)]


def words(sentence: str) -> list[str]:
    return re.findall(WORD, sentence.lower())


def flatten(lexicon: str | tuple) -> Iterator[str]:
    """All words of a vocabulary, flattened."""
    if isinstance(lexicon, str):
        yield lexicon.lower()
    else:
        for part in lexicon:
            yield from flatten(part)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("split", SPLITS)
def test_sizes_and_balance(split: str, seed: int) -> None:
    rows = sentences(split, seed=seed)
    cells = Counter((row["phenomenon"], row["label"]) for row in rows)
    assert len(PHENOMENA) >= 8
    assert [row["idx"] for row in rows] == list(range(SIZES[split]))
    assert set(cells) == {(phenomenon, label) for phenomenon in PHENOMENA for label in (0, 1)}
    for phenomenon in PHENOMENA:
        assert cells[phenomenon, 0] == cells[phenomenon, 1]
    assert max(cells.values()) - min(cells.values()) <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_a_fixed_hash(split: str) -> None:
    """The id of a run names the generator, not the rows: these must stay those of the runs before."""
    rows = [(row["sentence"], row["label"], row["phenomenon"], row["idx"]) for row in rows_of(split, None)]
    assert fingerprint(rows) == FINGERPRINTS[split]


def test_every_sentence_is_distinct_within_and_across_splits() -> None:
    everything = [sentence for split in SPLITS for sentence in texts(split)]
    assert len(set(everything)) == sum(SIZES.values())


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_a_function_of_the_seed(split: str) -> None:
    assert sentences(split) == sentences(split, seed=0)
    assert sentences(split, seed=1) == sentences(split, seed=1)
    mine, other = ([row["sentence"] for row in sentences(split, seed=seed)] for seed in (0, 1))
    assert mine != other
    assert set(mine) != set(other)  # different sentences, not just a different order


def test_rows_are_the_same_in_every_process() -> None:
    program = (
        "import hashlib; from rosa_bench.data.generators.grammar import sentences;"
        "print(hashlib.sha256(repr([sentences(s) for s in ('train', 'validation')]).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr([sentences(split) for split in SPLITS]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(grammar.__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


@pytest.mark.parametrize("split", SPLITS)
def test_the_rows_are_shuffled(split: str) -> None:
    # Rows sorted by phenomenon or label, or with the halves of a pair adjacent, would have long runs or none.
    rows = sentences(split)
    changes = sum(one["label"] != two["label"] for one, two in pairwise(rows)) / len(rows)
    assert 0.4 < changes < 0.6
    assert {row["phenomenon"] for row in rows[:100]} == set(PHENOMENA)


def test_splits_share_only_function_words() -> None:
    train, validation = ({word for text in texts(split) for word in words(text)} for split in SPLITS)
    assert train & validation == FUNCTION_WORDS
    assert FUNCTION_WORDS.isdisjoint([*flatten(TRAIN), *flatten(VALIDATION)])


@pytest.mark.parametrize("split", SPLITS)
def test_every_word_is_a_function_word_or_in_the_splits_vocabulary(split: str) -> None:
    used = {word for text in texts(split) for word in words(text)}
    assert used - FUNCTION_WORDS <= set(flatten(VOCABULARIES[split]))


@pytest.mark.parametrize("split", SPLITS)
def test_no_sentence_names_the_same_thing_twice(split: str) -> None:
    """In "the pilot that the pilots trusted" the two could be one."""
    vocabulary = VOCABULARIES[split]
    nouns = {form: noun for noun in (*vocabulary.people, *vocabulary.things) for form in noun}
    for text in texts(split):
        named = [nouns[word] for word in words(text) if word in nouns]
        assert len(named) == len(set(named)), text


@pytest.mark.parametrize("split", SPLITS)
def test_spelling_and_punctuation(split: str) -> None:
    names = {*VOCABULARIES[split].male_names, *VOCABULARIES[split].female_names, "I"}
    for text in texts(split):
        assert re.fullmatch(rf"[A-Z][a-z]*(?:,? {WORD})+[.?]", text), text
        assert set(re.findall(r" ([A-Z][a-z]*)", text)) <= names, text
        assert text.endswith("?") == (re.match(OPENS_A_QUESTION, text, re.IGNORECASE) is not None), text
        for article, following in re.findall(r"\b(an?) ([a-z]+)", text.lower()):
            assert (article == "an") == (following[0] in "aeiou"), text
            assert not following.startswith(("ho", "uni", "eu", "use")), f"spelling does not tell the article: {text}"


@pytest.mark.parametrize("phenomenon", PHENOMENA)
@pytest.mark.parametrize("split", SPLITS)
def test_length_and_punctuation_do_not_predict_the_label(split: str, phenomenon: str) -> None:
    shapes: tuple[Counter[tuple[int, str]], ...] = (Counter(), Counter())
    characters = [0, 0]
    for text, label in zip(texts(split, phenomenon), labels(split, phenomenon), strict=True):
        shapes[label][len(words(text)), text[-1]] += 1
        characters[label] += len(text)
    assert shapes[0] == shapes[1]
    assert characters[0] == pytest.approx(characters[1], rel=0.02)


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_no_single_word_predicts_the_label(phenomenon: str) -> None:
    for split in SPLITS:
        truth = labels(split, phenomenon)
        present = [set(words(text)) for text in texts(split, phenomenon)]
        rows_with = Counter(word for found in present for word in found)
        watched = {word for word, count in rows_with.items() if 10 <= count < len(present)}
        # In the validation split each of its own words has few rows per phenomenon, and none occurs in train.
        for word in watched if split == "train" else watched & FUNCTION_WORDS:
            assert abs(correlation(truth, [word in found for found in present])) < 0.15, (split, word)


def bag(longest: int = 1) -> Pipeline:
    """Logistic regression on counts of words and punctuation, as n-grams up to length `longest`."""
    counts = CountVectorizer(token_pattern=r"\w+|[.,?]", ngram_range=(1, longest))
    return make_pipeline(counts, LogisticRegression(max_iter=1000))


@pytest.mark.parametrize("phenomenon", [None, *PHENOMENA])
def test_a_bag_of_words_does_not_transfer_to_validation(phenomenon: str | None) -> None:
    model = bag().fit(texts("train", phenomenon), labels("train", phenomenon))
    predicted = model.predict(texts("validation", phenomenon))
    assert abs(matthews_corrcoef(labels("validation", phenomenon), predicted)) < 0.2


def test_a_bag_of_words_does_not_generalise_within_train() -> None:
    # If the halves of a pair were in different folds, the held-out half would have the opposite label of its twin.
    # That pushes the score below zero and could hide a cue. Both halves have the same nouns and names, so grouping by
    # one of them keeps the halves together.
    x, y = texts("train"), labels("train")
    assert matthews_corrcoef(y, cross_val_predict(bag(), x, y, cv=StratifiedKFold(5))) < 0.2
    together = cross_val_predict(bag(), x, y, groups=[first_nominal(text) for text in x], cv=GroupKFold(5))
    assert abs(matthews_corrcoef(y, together)) < 0.2


def first_nominal(sentence: str) -> str:
    """The alphabetically first noun or name in a training sentence."""
    nominals = set(flatten((TRAIN.people, TRAIN.men, TRAIN.women, TRAIN.things, TRAIN.male_names, TRAIN.female_names)))
    return min(nominals.intersection(words(sentence)))


def test_word_order_predicts_the_label() -> None:
    # Without this, random labels would pass the tests above. Bigrams see local order only.
    model = bag(longest=2).fit(texts("train"), labels("train"))
    assert matthews_corrcoef(labels("validation"), model.predict(texts("validation"))) > 0.25


@pytest.mark.parametrize("split", ["test", "", "Train"])
def test_unknown_split_error_lists_the_choices(split: str) -> None:
    with pytest.raises(UserError, match=re.escape(repr(split)) + ".*train, validation"):
        sentences(split)


@pytest.mark.parametrize("phenomena", [("pronoun_case",), ("question_formation",), PHENOMENA[:3]])
def test_chosen_phenomena_give_distinct_balanced_rows_of_those_alone(phenomena: tuple[str, ...]) -> None:
    for split, size in SIZES.items():
        rows = sentences(split, phenomena=phenomena)
        cells = Counter((row["phenomenon"], row["label"]) for row in rows)
        assert len(rows) == len({row["sentence"] for row in rows}) == min(size, 2000 * len(phenomena))
        assert set(cells) == {(phenomenon, label) for phenomenon in phenomena for label in (0, 1)}
        assert max(cells.values()) - min(cells.values()) <= 1
