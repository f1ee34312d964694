"""The slot checker here parses references with its own patterns, independently of the generator."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from sacrebleu import corpus_bleu

from rosa_bench.data.generators import restaurants
from rosa_bench.data.generators.restaurant_words import ATTRIBUTES, FORMS
from rosa_bench.data.generators.restaurants import load
from rosa_bench.system.errors import UserError

SPLITS = ("train", "validation", "test")
EVALUATED = SPLITS[1:]
ORDER = ["name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near"]
FINGERPRINTS = {
    "train": "cc2ccfdf5be1fe1c62ee98f951dfecf6de16afd9aaaaaf50f0097081973dd900",
    "validation": "588aea58b2664eb2da85651c46cc9ba6c00ce46f579553c2d206b1294f76bb97",
    "test": "2aef629ab9ce0d786e3284024adac9ba8d4bb922cfbae6e5029cbb95f18d940c",
}

CHARGES = "(?:charg(?:es|ing)|meals? costs?|offers meals for|will pay)"
RATED = "(?:customer rating (?:of|is)|rated|customers (?:rate|give) the place)"
SCORE = r"(?:{} (?:stars )?out of 5|{} out of five)(?: by customers)?"
OPINION = (
    "{0} customer (?:rating|reviews)|{0} reviews from customers|customer (?:rating is|reviews are) {0}"
    "|customers call the place {0}"
)
SUITABLE = "suitable for children"
MEANS: dict[str, dict[str, str]] = {
    "eatType": {kind: kind for kind in ("bistro", "tavern", "tea room", "inn")},
    "food": {
        kind: kind
        for kind in (
            *("Greek", "Thai", "Mexican", "Lebanese", "Ethiopian", "Korean", "Moroccan", "Portuguese"),
            *("vegetarian", "organic"),
        )
    },
    "priceRange": {
        "less than £15": f"{CHARGES} (?:less than|under) £15",
        "£15-25": f"{CHARGES} (?:£15-25|£15 to £25|between £15 and £25)",
        "more than £25": f"{CHARGES} (?:more than|over) £25",
        "cheap": "cheap|low prices|prices are low",
        "moderate": "moderately priced|moderate prices|prices are moderate",
        "high": "expensive|high prices|prices are high",
    },
    "customer rating": {
        "2 out of 5": f"{RATED} {SCORE.format('2', 'two')}",
        "3 out of 5": f"{RATED} {SCORE.format('3', 'three')}",
        "4 out of 5": f"{RATED} {SCORE.format('4', 'four')}",
        "poor": f"poorly rated|{OPINION.format('poor')}",
        "average": OPINION.format("average"),
        "excellent": f"highly rated|{OPINION.format('excellent')}",
    },
    "area": {
        "harbour": "(?:by|at) the harbour",
        "old town": "in the old town",
        "market square": "on the market square",
        "station quarter": "in the station quarter",
    },
    "familyFriendly": {
        "yes": rf"(?<!not )(?:(?:family|child)-friendly|{SUITABLE})|for the whole family|welcomes families"
        r"|(?:families|children) are welcome",
        "no": f"not (?:family-friendly|{SUITABLE})|adults[- ]only|does not welcome families"
        "|(?:families|children) are not welcome",
    },
}
# Words that state no attribute.
GLUE = (
    "a an and is it you that which there the place where called located lies stands can be found will find in has with "
    "serves serving offers offering specialises cooking dishes food menu kitchen charges gets for meal"
)


@cache
def rows(split: str) -> list[dict[str, str]]:
    return load(split)


@cache
def texts(split: str) -> list[str]:
    return [row["human_reference"] for row in rows(split)]


@cache
def references(split: str) -> dict[str, list[str]]:
    """References by meaning representation."""
    found: dict[str, list[str]] = {}
    for row in rows(split):
        found.setdefault(row["meaning_representation"], []).append(row["human_reference"])
    return found


def attributes(meaning: str) -> list[tuple[str, str]]:
    assert re.fullmatch(r"[\w ]+\[[^][]+\](, [\w ]+\[[^][]+\])*", meaning)
    return re.findall(r"([\w ]+?)\[([^][]+)\]", meaning.replace(", ", ","))


@cache
def values(attribute: str) -> list[str]:
    """All values of an attribute in any row."""
    return sorted({dict(attributes(row["meaning_representation"])).get(attribute, "") for row in rows("train")} - {""})


def parse(text: str) -> tuple[list[tuple[str, str]], set[str]]:
    """Parse the stated attributes, with repetitions, in the order of a meaning representation, and the other words."""
    said = []
    for attribute, prefix in (("near", "(?:near|close to|next to|around the corner from) "), ("name", "")):
        for value in values(attribute):
            text, times = re.subn(rf"{prefix}\b{re.escape(value)}(?!\w)", " ", text, flags=re.IGNORECASE)
            said += [(attribute, value)] * times
    for attribute, patterns in MEANS.items():
        found = [
            (match.span(), value)
            for value, pattern in patterns.items()
            for match in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w|-\d)", text, flags=re.IGNORECASE)
        ]
        said += [(attribute, value) for _, value in found]
        for (start, end), _ in found:
            text = text[:start] + " " * (end - start) + text[end:]
    return sorted(said, key=lambda one: ORDER.index(one[0])), set(re.findall(r"[^\W_]+", text.lower()))


def test_sizes() -> None:
    assert {split: len(references(split)) for split in SPLITS} == {"train": 800, "validation": 60, "test": 60}
    assert {split: len(rows(split)) for split in SPLITS} == {"train": 2000, "validation": 270, "test": 270}
    assert {len(found) for found in references("train").values()} == {1, 2, 3, 4}
    for split in EVALUATED:
        assert {len(found) for found in references(split).values()} == {3, 4, 5, 6}


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_the_columns_and_format_of_e2e(split: str) -> None:
    assert all(list(row) == ["meaning_representation", "human_reference"] for row in rows(split))
    for meaning in references(split):
        there = [attribute for attribute, _ in attributes(meaning)]
        assert there[0] == "name"
        assert 3 <= len(there) <= 7
        assert there == [attribute for attribute in ORDER if attribute in there]


def test_splits_share_no_meaning() -> None:
    assert len({meaning for split in SPLITS for meaning in references(split)}) == 920


@pytest.mark.parametrize("split", SPLITS)
def test_references_of_a_meaning_are_adjacent_and_distinct(split: str) -> None:
    meanings = [row["meaning_representation"] for row in rows(split)]
    assert meanings == [meaning for meaning, found in references(split).items() for _ in found]
    assert all(len({text.lower() for text in found}) == len(found) for found in references(split).values())


@pytest.mark.parametrize("split", SPLITS)
def test_every_reference_states_each_attribute_once_and_nothing_else(split: str) -> None:
    for row in rows(split):
        said, left_over = parse(row["human_reference"])
        assert said == attributes(row["meaning_representation"]), row
        assert left_over <= set(GLUE.split()), row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Juniper is an inn.", [("name", "Juniper"), ("eatType", "inn")]),
        ("Juniper is not family-friendly.", [("name", "Juniper"), ("familyFriendly", "no")]),
        ("Juniper is family-friendly.", [("name", "Juniper"), ("familyFriendly", "yes")]),
        ("Families are welcome. It welcomes families.", [("familyFriendly", "yes")] * 2),
        ("It charges £15-25.", [("priceRange", "£15-25")]),
        ("A meal costs less than £15.", [("priceRange", "less than £15")]),
        ("It is cheap and has low prices.", [("priceRange", "cheap")] * 2),
        ("It has a customer rating of 3 stars out of 5.", [("customer rating", "3 out of 5")]),
        ("It has a poor menu.", []),
        ("Juniper is near Juniper.", [("name", "Juniper")] * 2),
        ("Next to Hotel Aurora, in the old town.", [("area", "old town"), ("near", "Hotel Aurora")]),
    ],
)
def test_the_slot_checker_finds_stated_attributes(text: str, said: list[tuple[str, str]]) -> None:
    assert parse(text)[0] == said


@pytest.mark.parametrize("split", SPLITS)
def test_spelling(split: str) -> None:
    for text in texts(split):
        assert text.endswith("."), text
        assert text == " ".join(text.split()), text
        assert not re.search(r" [.,]|[.,](?! |$)|[.,] ?[.,]", text), text
        assert 1 <= len(sentences := text[:-1].split(". ")) <= 3, text
        assert all(sentence[0].isupper() for sentence in sentences), text
        assert not re.search(r"\b(\w+) \1\b", text, flags=re.IGNORECASE), text


@pytest.mark.parametrize("split", SPLITS)
def test_articles(split: str) -> None:
    found = Counter()
    for text in texts(split):
        for article, following in re.findall(r"\b(an?) (\S+)", text, flags=re.IGNORECASE):
            assert (article.lower() == "an") == (following[0].lower() in "aeiou"), text
            assert not re.match(r"ho[nu]|uni|eu|use|one|8|1[18]", following, flags=re.IGNORECASE), (
                f"spelling does not tell the article: {text}"
            )
            found[article.lower()] += 1
    assert found.keys() == {"a", "an"}


@pytest.mark.parametrize("split", SPLITS)
def test_it_always_refers_to_the_restaurant(split: str) -> None:
    # The first sentence is about the restaurant. After a clause with another subject there must be no "it".
    for text in texts(split):
        subjects = re.findall(r"(?:\. |, and )(\w+)", text)
        pronouns = [subject.lower() == "it" for subject in subjects]
        assert pronouns == sorted(pronouns, reverse=True), text


def test_every_value_and_phrase_occurs_in_train() -> None:
    for attribute, choices in ATTRIBUTES.items():
        assert values(attribute) == sorted(choices)

    def plain(text: str) -> str:
        """Replace foods and scores by one placeholder each, and "an" by "a"."""
        text = re.sub("|".join(MEANS["food"]), "Greek", text)
        return re.sub(r"\ban ", "a ", re.sub(r"\b(2|3|4|two|three|four)(?= (stars )?out of)", "3", text))

    everything = plain("\n".join(texts("train"))).lower()
    phrases = {plain(phrase) for forms in FORMS.values() for form in forms.values() for kind in form for phrase in kind}
    assert {phrase for phrase in phrases if phrase.lower() not in everything} == set()


def test_non_ascii_letters_occur() -> None:
    for split in SPLITS:
        assert set("é£") <= set("".join(texts(split)))


@pytest.mark.parametrize("split", EVALUATED)
def test_references_are_as_diverse_as_human_ones(split: str) -> None:
    """BLEU of a reference against the others: a single sentence plan would score near 100, noise near 0."""
    turns = [
        (text, [*found[:i], *found[i + 1 :]]) for found in references(split).values() for i, text in enumerate(found)
    ]
    # The scorer needs equally many references for each text; repeating one changes nothing.
    streams = [[others[i % len(others)] for _, others in turns] for i in range(5)]
    assert 25 < corpus_bleu([text for text, _ in turns], streams, lowercase=True).score < 70


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_a_fixed_hash(split: str) -> None:
    assert hashlib.sha256(json.dumps(load(split)).encode()).hexdigest() == FINGERPRINTS[split]


def test_rows_are_the_same_in_every_process() -> None:
    program = (
        "import hashlib, json; from rosa_bench.data.generators.restaurants import load;"
        "print(*(hashlib.sha256(json.dumps(load(s)).encode()).hexdigest() for s in ('train', 'validation', 'test')))"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(restaurants.__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.split() == list(FINGERPRINTS.values())


@pytest.mark.parametrize("split", ["dev", "", "Train"])
def test_unknown_split_error_lists_the_choices(split: str) -> None:
    with pytest.raises(UserError, match=re.escape(repr(split)) + ".*train, validation, test"):
        load(split)
