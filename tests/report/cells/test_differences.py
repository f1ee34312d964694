"""Paired and stratified differences, power and Holm, checked against SciPy, simulation and published examples."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp, ttest_ind, ttest_rel

from rosa_bench.report.cells.differences import Difference, holm, noncentrality, paired, stratified, survives

PAIRS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=6)
SAMPLE = st.lists(st.integers(-1000, 1000).map(lambda value: value / 1000), min_size=2, max_size=7)


def known(found: Difference | None) -> Difference:
    assert found is not None
    return found


def ends(found: Difference) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def against_zero(differences: list[float]) -> tuple[dict[int, float], dict[int, float]]:
    """A task with these differences, seed by seed."""
    return dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)


# One task


def test_a_difference_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t = sqrt(12); critical t is 4.3027 at 2 df."""
    found = known(paired({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.4, 1: 0.3, 2: 0.2}))
    assert found.seeds == (3,)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.mean, *ends(found)) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found.p == pytest.approx(1 - math.sqrt(6 / 7))  # at 2 df: p = 1 - t / sqrt(t^2 + 2), t^2 = 12
    assert found.within_noise


@given(pairs=PAIRS)
@settings(max_examples=60, deadline=None)
def test_a_paired_difference_equals_scipys_tests(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = ({seed: pair[side] / 1000 for seed, pair in enumerate(pairs)} for side in (0, 1))
    found, turned = known(paired(ours, theirs)), known(paired(theirs, ours))
    low, high = ends(found)
    assert low <= found.mean <= high
    assert (turned.mean, *ends(turned)) == pytest.approx((-found.mean, -high, -low))
    assert turned.within_noise == found.within_noise
    if len({one - other for one, other in pairs}) == 1:
        assert (found.p, found.detectable, found.within_noise) == (None, None, pairs[0][0] == pairs[0][1])
        return
    reference = ttest_1samp([(one - other) / 1000 for one, other in pairs], 0.0)
    p = ttest_rel(list(ours.values()), list(theirs.values())).pvalue
    assert found.p == pytest.approx(p)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    if abs(p - 0.05) > 1e-6:
        assert found.within_noise == (p > 0.05)


def test_rounding_is_no_spread_and_no_difference() -> None:
    """In binary, 0.3 - 0.2 is not 0.2 - 0.1, and 0.1 + 0.2 is not 0.3; neither may make a p or a star."""
    alike = known(paired({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.1}))
    assert (alike.error, alike.p, alike.within_noise) == (0, None, False)
    same = known(paired({0: 0.1 + 0.2, 1: 0.3}, {0: 0.3, 1: 0.1 + 0.2}))
    assert (same.mean, same.error, same.within_noise) == (0, 0, True)
    assert known(paired({0: 0.3, 1: 0.3}, {0: 0.1 + 0.2, 1: 0.1 + 0.2})).within_noise


def test_only_shared_seeds_count() -> None:
    found = known(paired({0: 0.9, 1: 0.5, 2: 0.6, 7: 0.1}, {1: 0.4, 2: 0.3, 3: 0.0}))
    assert (found.mean, found.seeds) == (pytest.approx(0.2), (2,))


def test_pairing_removes_the_effect_of_the_seed() -> None:
    """Scores vary widely over seeds but differences do not: paired they are significant, unpaired they are not."""
    theirs = {0: 0.2, 1: 0.5, 2: 0.8}
    found = known(paired({0: 0.25, 1: 0.551, 2: 0.849}, theirs))
    assert not found.within_noise
    assert found.mean < 0.1 < np.std(list(theirs.values())) * norm.ppf(0.975)


def test_one_seed_is_always_within_noise() -> None:
    found = known(paired({0: 0.9}, {0: 0.1}))
    assert (found.mean, found.low, found.high, found.p, found.seeds) == (pytest.approx(0.8), None, None, None, (1,))
    assert found.detectable is None
    assert found.within_noise


@pytest.mark.parametrize("scores", [{}, {1: 0.1}, {0: math.nan}, {0: math.inf, 1: 0.5}])
def test_no_shared_seed_or_no_score_gives_no_difference(scores: dict[int, float]) -> None:
    assert paired({0: 0.9}, scores) is None
    assert stratified([({0: 0.9}, {0: 0.1}), ({0: 0.9}, scores)]) is None


# Over tasks


@given(one=SAMPLE, other=SAMPLE)
@settings(max_examples=60, deadline=None)
def test_two_tasks_are_welchs_test(one: list[float], other: list[float]) -> None:
    """The mean of x and -y is half the difference of x and y, so t, df and p are those of Welch's test of x and y."""
    assume(len(set(one)) > 1 and len(set(other)) > 1)
    found = known(stratified([against_zero(one), against_zero([-value for value in other])]))
    reference = ttest_ind(one, other, equal_var=False)
    between = reference.confidence_interval(0.95)
    assert found.df == pytest.approx(reference.df)
    assert found.p == pytest.approx(reference.pvalue)
    assert ends(found) == pytest.approx((between.low / 2, between.high / 2))


def test_seeds_that_only_one_task_has_count_in_it() -> None:
    """Means over all seeds of each task: (0.1 + 0.4) / 2. The seed that both have would give (0.0 + 0.4) / 2."""
    found = known(stratified([against_zero([0.0, 0.1, 0.2]), ({0: 0.4, 7: 0.4}, {0: 0.0, 7: 0.0})]))
    assert (found.mean, found.seeds) == (pytest.approx(0.25), (3, 2))
    assert found.error == pytest.approx(0.1 / math.sqrt(3) / 2)  # the other task has no spread
    assert found.df == pytest.approx(2)


def test_a_task_with_one_seed_leaves_no_interval() -> None:
    found = known(stratified([against_zero([0.0, 0.1, 0.2]), against_zero([0.3])]))
    assert (found.mean, found.low, found.p, found.seeds) == (pytest.approx(0.2), None, None, (3, 1))


@pytest.mark.parametrize(
    ("counts", "few"), [((4, 13), True), ((13, 2), True), ((5, 5), False), ((2,), False), ((5, 13, 5), False)]
)
def test_few_seeds_make_the_test_over_several_tasks_rough(counts: tuple[int, ...], few: bool) -> None:
    """The paired test in one task is exact at any number of seeds."""
    found = known(stratified([against_zero([0.01 * seed for seed in range(count)]) for count in counts]))
    assert found.has_few_seeds is few


def test_the_seeds_of_a_task_may_have_any_numbers() -> None:
    """Seeds of different tasks are independent, so renaming them changes nothing."""
    first, second = [0.1, 0.3, 0.2], [0.5, 0.1, 0.4]
    expected = known(stratified([against_zero(first), against_zero(second)]))
    for order in permutations(second):
        found = known(stratified([against_zero(first), against_zero(list(order))]))
        assert (found.mean, *ends(found)) == pytest.approx((expected.mean, *ends(expected)))


@pytest.mark.slow
def test_the_stratified_interval_covers_the_mean_over_tasks() -> None:
    """Tasks of different spread and seeds, over 3,000 samples: the standard error of the coverage is 0.4 %."""
    random = np.random.default_rng(3)
    covered = []
    for _ in range(3000):
        spreads = [(0.0, 0.05, 5), (0.1, 0.01, 5), (-0.05, 0.03, 13), (0.03, 0.002, 3)]
        tasks = [against_zero(list(random.normal(mean, spread, seeds))) for mean, spread, seeds in spreads]
        low, high = ends(known(stratified(tasks)))
        covered.append(low <= 0.02 <= high)
    assert 0.935 <= np.mean(covered) <= 0.965


# Power


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_small_medium_and_large_effects_need_the_known_number_of_seeds(effect: float, seeds: int) -> None:
    """Pairs for 80 % power at 5 %, two-sided, as programs for power list them; effects in standard deviations."""
    enough, few = (noncentrality(count - 1) / math.sqrt(count) for count in (seeds, seeds - 1))
    assert enough <= effect < few


def test_many_degrees_of_freedom_give_the_normal_value() -> None:
    assert noncentrality(1e5) == pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 13])
def test_a_detectable_difference_is_detected_in_80_percent_of_samples(seeds: int) -> None:
    """Over 20,000 samples the standard error is 0.3 %."""
    random = np.random.default_rng(2)
    true = noncentrality(seeds - 1) / math.sqrt(seeds)  # in standard deviations
    samples = random.normal(true, 1.0, (20_000, seeds))
    assert np.mean(ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.012)


def test_the_detectable_difference_is_in_units_of_the_error() -> None:
    found = known(paired(*against_zero([0.1, 0.2, 0.3])))
    assert found.detectable == pytest.approx(noncentrality(2) * 0.1 / math.sqrt(3))
    wider = known(paired(*against_zero([0.0, 0.2, 0.4])))
    assert wider.detectable == pytest.approx(2 * found.detectable)


# Families


def test_holm_by_hand() -> None:
    """0.005 x 4 and 0.01 x 3 are significant; 0.03 x 2 is not, and then neither is 0.04, whatever it is times 1."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [survives(p) for p in found] == [True, False, False, True]


def test_a_difference_without_a_test_is_not_counted() -> None:
    assert holm([None, 0.02, None, 0.03]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([None]) == [None]
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1, 1]  # a probability
    assert not survives(None)


@given(family=st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_its_definition_rejects(family: list[float]) -> None:
    """Step down: the k-th smallest p is rejected while it is below 0.05 / (m - k + 1)."""
    rejected: set[int] = set()
    for k, place in enumerate(sorted(range(len(family)), key=family.__getitem__)):
        if family[place] >= (0.05 / (len(family) - k)) * (1 - 1e-12):
            break
        rejected.add(place)
    found = [place for place, p in enumerate(holm(family)) if p is not None and p < 0.05 * (1 - 1e-12)]
    assert set(found) == rejected
