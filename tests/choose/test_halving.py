"""Successive halving as laws."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench.choose.halving import Score, finalists, promoted, ranked, rungs

values = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])
scores = st.dictionaries(st.integers(0, 30), st.builds(Score, values, st.sampled_from([0.1, 0.7])), min_size=1)


@given(scores, st.integers(2, 4))
def test_never_more_than_one_in_eta_is_promoted_and_the_best_always_is(known: dict[int, Score], eta: int) -> None:
    kept = promoted(known, eta)
    assert len(kept) <= max(1, len(known) // eta)
    sound = [arm for arm, score in known.items() if not math.isnan(score.value)]
    assert len(kept) == min(len(sound), max(1, len(known) // eta))
    if sound:
        assert known[kept[0]].value == max(known[arm].value for arm in sound)


@given(scores)
def test_whoever_is_promoted_is_at_least_as_good_as_whoever_is_not(known: dict[int, Score]) -> None:
    kept = promoted(known)
    left = [arm for arm, score in known.items() if arm not in kept and score.is_known]
    for arm in kept:
        for other in left:
            ours, theirs = known[arm], known[other]
            assert (ours.value, -ours.loss) >= (theirs.value, -theirs.loss)


@given(scores, st.randoms(use_true_random=False))
def test_equal_scores_are_told_apart_by_the_loss_and_then_by_their_order(known: dict[int, Score], random) -> None:
    assert promoted(known) == promoted(dict(known))  # deterministic
    arms = list(known)
    random.shuffle(arms)
    shuffled = ranked({arm: known[arm] for arm in arms})
    # The merits do not depend on it.
    assert [known[arm].merit for arm in shuffled] == [known[arm].merit for arm in ranked(known)]
    for first, second in pairwise(shuffled):
        if known[first].merit == known[second].merit:
            assert arms.index(first) < arms.index(second)


@given(st.integers(1, 300), st.integers(2, 5))
def test_each_rung_is_at_least_eta_times_as_long_as_the_one_before(epochs: int, eta: int) -> None:
    lengths = rungs(epochs, eta)
    assert lengths[-1] == epochs
    assert 1 <= lengths[0] < eta
    assert all(eta * shorter <= longer for shorter, longer in pairwise(lengths))


@pytest.mark.parametrize(("count", "expected"), [(1, ["b2"]), (2, ["b2", "a1"]), (3, ["b2", "a1", "c1"])])
def test_finalists_are_the_best_of_different_kinds(count: int, expected: list[str]) -> None:
    known = {"a1": 0.7, "a2": 0.6, "b1": 0.8, "b2": 0.9, "c1": 0.1, "d1": math.nan}
    assert finalists({arm: Score(value) for arm, value in known.items()}, lambda arm: arm[0], count) == expected
