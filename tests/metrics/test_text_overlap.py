import gzip
import json
import math
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench import __version__
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.metrics.text_overlap import SCORES, SIGNATURE, score

Item = tuple[str, list[str]]

# Words that differ only in case, and punctuation that is split off, with enough variety that texts rarely match.
texts = st.lists(st.sampled_from(["the", "The", "cat", "Cat", "sat.", "£20-25", "is,"]), max_size=9).map(" ".join)
corpora = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=6)


def of(items: list[Item]) -> dict[str, float]:
    return score([text for text, _ in items], [references for _, references in items])


def repeated(items: list[Item]) -> list[list[str]]:
    """References as columns of equal length. Missing ones repeat another, which does not change BLEU."""
    most = max(len(references) for _, references in items)
    return [[references[min(column, len(references) - 1)] for _, references in items] for column in range(most)]


def command_line(items: list[Item], folder: Path, *options: str) -> float:
    """The score of ``python -m sacrebleu`` on these texts, from files, in a separate process."""
    names = []
    for name, column in {"texts": [text for text, _ in items], **dict(enumerate(repeated(items)))}.items():
        (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in column), encoding="utf-8")
        names.append(f"{name}.txt")
    command = [sys.executable, "-m", "sacrebleu", *names[1:], "-i", names[0], "-b", "-w", "8", *options]
    return float(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout) / 100


# Matches of orders 1 to 4: 4 of 5, 3 of 4, 2 of 3 and 1 of 2.
FOUR_OF_FIVE = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)


@pytest.mark.parametrize(("items", "bleu", "cased"), [
    ([("a b c d e", ["a b c d e"])], 1, 1),
    ([("a b c d e", ["a b c d f"])], FOUR_OF_FIVE, FOUR_OF_FIVE),
    # The fifth word is from another reference.
    ([("a b c d e", ["a b c d f", "x e"])], (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4), (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)),
    ([("A b c d e", ["a b c d e"])], 1, FOUR_OF_FIVE),
    ([("a b c d e.", ["a b c d e ."])], 1, 1),  # a full stop is a token of its own
    # The closest reference length, seven, counts; a missing reference does not count as an empty one.
    ([("a b c d e", ["a b c d e f g", "a b c d e f g h i"])], math.exp(1 - 7 / 5), math.exp(1 - 7 / 5)),
    # One text with three references, and an empty text whose only reference has eight words.
    ([("a b c d e", ["a b c d e", "a", "b"]), ("", ["a b c d e f g h"])], math.exp(1 - 13 / 5), math.exp(1 - 13 / 5)),
    # Lower-casing can reduce the score: no reference has "a" twice, but one has "A" and one has "a".
    ([("A a b c d", ["A z b c d", "y a b c d"])], FOUR_OF_FIVE, (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)),
    ([("", ["a b"]), ("", ["c"])], 0, 0),
    ([("z", ["a b"])], 0, 0),
])  # fmt: skip
def test_bleu_by_hand(items: list[Item], bleu: float, cased: float) -> None:
    figures = of(items)
    assert (figures["bleu"], figures["bleu_cased"]) == pytest.approx((bleu, cased))


def test_a_missing_reference_is_not_an_empty_one() -> None:
    # With an empty reference, a text of two words would be closer to length 0 than to 9.
    items = [("a b c d", ["a b c d"]), ("x y", ["x y c d e f g h i"]), ("p q r s", ["p q r s", "t"])]
    assert of(items)["bleu"] == pytest.approx(math.exp(1 - 17 / 10))
    assert of([(text, [*references, ""]) for text, references in items])["bleu"] > of(items)["bleu"]


def test_nist_uses_the_lower_cased_tokens_of_bleu() -> None:
    # Six distinct tokens: "£20 - 25 , riverside ."
    assert of([("£20-25, Riverside.", ["£20-25, riverside ."])])["nist"] == pytest.approx(math.log2(6))


@given(corpora)
def test_bleu_equals_sacrebleu(items: list[Item]) -> None:
    figures = of(items)
    outputs = [text for text, _ in items]
    for name, lowercase in (("bleu", True), ("bleu_cased", False)):
        expected = sacrebleu.corpus_bleu(outputs, repeated(items), lowercase=lowercase).score
        assert figures[name] == pytest.approx(expected / 100, abs=1e-12)


@given(corpora, st.randoms())
def test_order_of_texts_and_references_does_not_matter(items: list[Item], shuffled: random.Random) -> None:
    other = [(text, shuffled.sample(references, len(references))) for text, references in items]
    shuffled.shuffle(other)
    assert of(other) == pytest.approx(of(items))


@given(st.lists(st.tuples(texts, texts.map(lambda text: [text])), min_size=1, max_size=6))
def test_with_one_reference_lower_casing_never_reduces_bleu(items: list[Item]) -> None:
    figures = of(items)
    assert figures["bleu"] >= figures["bleu_cased"] - 1e-12


@given(corpora)
def test_bleu_is_a_fraction_and_one_for_a_perfect_text(items: list[Item]) -> None:
    figures = of(items)
    assert tuple(figures) == SCORES
    assert 0 <= figures["bleu_cased"] <= 1 + 1e-12 and 0 <= figures["bleu"] <= 1 + 1e-12
    best = of([(references[0], references) for _, references in items])
    if any(len(references[0].split()) >= 4 for _, references in items):
        assert best["bleu"] == pytest.approx(1) and best["bleu_cased"] == pytest.approx(1)


@pytest.mark.parametrize(("outputs", "references"), [([], []), (["a"], []), (["a"], [[]]), (["a"], [["a"], ["b"]])])
def test_a_text_without_a_reference_is_an_error(outputs: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="each text needs at least one"):
        score(outputs, references)


def test_the_signature_is_sacrebleus() -> None:
    named = dict(part.split("=") for part in SIGNATURE.split("; "))
    assert tuple(named) == SCORES
    for name, lowercase in (("bleu", True), ("bleu_cased", False)):
        scorer = sacrebleu.BLEU(lowercase=lowercase)
        scorer.corpus_score(["a", "b"], [["a", "b"], ["c", None]])  # pyrefly: ignore[bad-argument-type]
        assert str(scorer.get_signature()) == f"nrefs:var|{named[name]}"
    assert named["nist"] == f"case:lc|tok:13a|n:5|sacrebleu:{sacrebleu.__version__}|rosa-bench:{__version__}"


# Human references against each other

RESTAURANTS = [
    ("Blue Spice is a coffee shop in the city centre.", [
        "A coffee shop in the city centre area called Blue Spice.", "Blue Spice is a coffee shop in city centre.",
    ]),
    ("The Vaults is a pub near Café Adriatic, with a 5 star rating.", [
        "Near Café Adriatic there is a pub called The Vaults with a 5 star rating.",
    ]),
    ("prices start at £30.", ["Prices start at £30.", "Prices start from more than £30.", "It costs more than £30."]),
]  # fmt: skip


def test_space_after_a_text_changes_no_score() -> None:
    """A hyphen before the end of a line would join it to the next line."""
    plain, spaced = (of([(f"a cheap pub -{end}", [f"a cheap pub -{end}", "a pub"])]) for end in ("", "\n"))
    assert spaced == plain


def test_the_command_line_of_sacrebleu_agrees(tmp_path: Path) -> None:
    figures = of(RESTAURANTS)
    assert figures["bleu_cased"] < figures["bleu"] < 1
    assert figures["bleu"] == pytest.approx(command_line(RESTAURANTS, tmp_path, "-lc"), abs=1e-9)
    assert figures["bleu_cased"] == pytest.approx(command_line(RESTAURANTS, tmp_path), abs=1e-9)


E2E_TEST = conf_folder().parent.parent / "shared/data/e2e_nlg/test.jsonl.gz"


@pytest.mark.skipif(not E2E_TEST.is_file(), reason="needs the E2E files beside the repository")
def test_bleu_of_e2es_first_test_references_against_the_others() -> None:
    people = defaultdict(list)
    with gzip.open(E2E_TEST, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            people[row["meaning_representation"]].append(row["human_reference"])
    items = [(first, others) for first, *others in people.values() if others]
    assert (len(people), len(items), sum(len(others) for _, others in items)) == (630, 616, 4063)
    # BLEU: python -m sacrebleu 2.6.0, with and without -lc: 60.4562 and 58.8509, one file per column of references.
    # NIST 8.89883, and both BLEU scores again: the E2E challenge's scorer (metrics/pymteval.py in e2e-metrics).
    assert of(items) == pytest.approx({"bleu": 0.604562, "bleu_cased": 0.588509, "nist": 8.89883}, rel=1e-6)
