"""The rank correlation of two orders, against its definition; and what we say PEFT has published."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rosa_bench.report.cells.agreement import agreement, best_of_methods, kendall
from rosa_bench.report.published import load_published

ORDERS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=9)


@given(ORDERS)
def test_tau_counts_pairs_in_the_same_order(points: list[tuple[int, int]]) -> None:
    ours = {str(n): float(x) for n, (x, _) in enumerate(points)}
    theirs = {str(n): float(y) for n, (_, y) in enumerate(points)} | {"only theirs": 9.0}
    pairs = [(a[0] - b[0], a[1] - b[1]) for a, b in combinations(points, 2)]
    untied = [sum(1 for pair in pairs if pair[side]) for side in (0, 1)]
    found = agreement(ours, theirs)
    if not all(untied):
        assert found is None
        return
    assert found is not None
    assert found.tau == pytest.approx(
        sum(math.copysign(1, x * y) for x, y in pairs if x * y) / math.sqrt(math.prod(untied))
    )
    assert found.methods == len(points)


@given(st.one_of(ORDERS, st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=4, max_size=40)))
@settings(max_examples=50, deadline=None)
def test_tau_and_its_p_are_those_of_scipy(points: list[tuple[float, float]]) -> None:
    left, right = zip(*points, strict=True)
    tau, p = map(float, kendalltau(left, right))
    found = kendall(left, right)
    assert found == (None if math.isnan(tau) else pytest.approx((tau, p), abs=1e-12))


def test_a_figure_that_is_no_number_gives_no_order() -> None:
    assert kendall([1.0, 2.0, math.nan, 4.0], [1.0, 2.0, 3.0, 4.0]) is None


def test_three_methods_are_no_order() -> None:
    assert agreement(dict.fromkeys("abcd", 1.0) | {"a": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}) is None  # pyrefly: ignore[bad-argument-type]


# Typed in again from PEFT's files: experiment, accuracy x 100, bytes of memory.
PEFT = """
full-finetuning--lr_0.00001   47.16  38868615168
lora--rank32                  47.84  22292725760
lora--rank64-rslora           51.33  22561161216
lora--rank32-dora             46.93  24532484096
lora--rank32-lorafa           40.41  22240296960
hira--rank32-lr4.5e-3         51.33  23597154304
oft--rank32                   49.13  22332571648
vera--default                 35.41  21621637120
adalora--rank32               37.30  22781362176
ia3--lr_0.001                 39.80  23234347008
"""


def test_peft_is_quoted_rightly() -> None:
    published = {row.title: row for row in load_published("peft_method_comparison").rows}
    assert len(published) == 63
    for line in PEFT.strip().splitlines():
        name, accuracy, memory = line.split()
        assert (published[name].figures["accuracy"], published[name].figures["memory"]) == (accuracy, memory)


def test_the_best_experiment_stands_for_its_method() -> None:
    best = best_of_methods(load_published("peft_method_comparison"), "accuracy")
    assert best["lora"]["accuracy"] == "49.43"  # rank 10 on the feed-forward layers
    assert best["ia3"]["accuracy"] == "45.49"
    assert best["miss"]["accuracy"] == "50.42"
