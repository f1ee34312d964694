import re
from collections import Counter

import pytest
from scipy.stats import chisquare

from rosa_bench.data.generators import generate, phonebook
from rosa_bench.data.generators.phonebook import load
from rosa_bench.data.rows import fingerprint
from rosa_bench.system.errors import UserError

FINGERPRINT = "5a8789cee12f38dd45798aa159d7c6ee6a682188f879c3ee0b5a9cf4f00492e1"  # of 100 pairs of 8 digits


def test_names_are_distinct_and_look_like_names() -> None:
    names = [row["name"] for row in load("train", pairs=20_000, digits=1, seed=0)]
    assert len(set(names)) == 20_000
    assert all(re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", name) for name in names)


def test_there_are_far_more_names_than_pairs() -> None:
    given = {a + b for a in phonebook.GIVEN_STARTS for b in phonebook.GIVEN_ENDS}
    surnames = {
        a + b + c for a in phonebook.SURNAME_STARTS for b in phonebook.SURNAME_MIDDLES for c in phonebook.SURNAME_ENDS
    }
    assert len(given) * len(surnames) > 10 * phonebook.MOST_PAIRS > 100 * 65_536


def test_digits_are_uniform_and_independent_of_their_neighbours_and_the_name() -> None:
    rows = load("train", pairs=20_000, digits=4, seed=0)
    for place in range(4):
        assert chisquare(list(Counter(row["number"][place] for row in rows).values())).pvalue > 1e-3
    for pairs in ([row["number"][1:3] for row in rows], [row["name"][-1] + row["number"][0] for row in rows]):
        by_first = {first: Counter(pair[1] for pair in pairs if pair[0] == first) for first in {p[0] for p in pairs}}
        assert all(chisquare(list(counts.values())).pvalue > 1e-4 for counts in by_first.values())


def test_the_rows_are_the_same_everywhere_and_depend_on_the_seed() -> None:
    rows = load("train", pairs=100, digits=8, seed=0)
    assert fingerprint([tuple(row.values()) for row in rows]) == FINGERPRINT
    other = load("train", pairs=100, digits=8, seed=1)
    assert not {row["name"] for row in rows} & {row["name"] for row in other}
    assert not {row["number"] for row in rows} & {row["number"] for row in other}


def test_a_larger_book_begins_with_the_smaller_one() -> None:
    assert generate("phonebook", "train", pairs=50, digits=3, seed=5)[:20] == load("train", pairs=20, digits=3, seed=5)


def test_there_is_no_other_split() -> None:
    with pytest.raises(UserError, match="'validation'"):
        load("validation", pairs=1, digits=1, seed=0)
