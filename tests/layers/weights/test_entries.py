"""Choosing the largest entries of several tensors, against a sort of all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench.layers.weights.entries import first_entries, largest_entries

SHAPES = st.lists(st.sampled_from([(1,), (3,), (2, 5), (4, 1), (2, 3, 2)]), min_size=1, max_size=5)


@given(SHAPES, st.data())
def test_the_largest_entries_are_those_that_a_sort_puts_first(
    shapes: list[tuple[int, ...]], data: st.DataObject
) -> None:
    torch.manual_seed(len(shapes))
    scores = [torch.rand(shape) for shape in shapes]
    count = data.draw(st.integers(1, sum(score.numel() for score in scores)))
    found = largest_entries(scores, count)
    every = sorted(
        (-value, owner, place)
        for owner, score in enumerate(scores)
        for place, value in enumerate(score.flatten().tolist())
    )
    expected = sorted((owner, place) for _, owner, place in every[:count])
    assert [(owner, place) for owner, part in enumerate(found) for place in part.tolist()] == expected
    assert [len(part) for part in first_entries(scores, count)] != [] and sum(map(len, found)) == count


def test_entries_without_values_are_counted_on_the_meta_device() -> None:
    weights = [torch.empty(shape, device="meta") for shape in ((2, 3), (4,), (5,))]
    found = first_entries(weights, 8)
    assert [len(part) for part in found] == [6, 2, 0]
    assert {part.device.type for part in found} == {"meta"}


def test_more_entries_than_there_are() -> None:
    with pytest.raises(RuntimeError):
        largest_entries([torch.rand(3)], 4)
