"""Generators by name."""

import pytest

from rosa_bench.data.generators import GENERATORS, generate
from rosa_bench.system.errors import UserError


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("markov", {}),
        ("synthetic_regression", {}),
        ("restaurants", {"phenomena": ()}),
        ("phonebook", {"phenomena": ()}),
    ],
)
def test_a_generator_for_another_kind_of_task_is_refused(name: str, settings: dict[str, object]) -> None:
    assert name in GENERATORS
    with pytest.raises(UserError, match=f"task.embedded={name} is not for this kind of task"):
        generate(name, "train", **settings)


@pytest.mark.parametrize("name", ["grammar", "restaurants"])
def test_changed_rows_change_no_later_ones(name: str) -> None:
    rows = generate(name, "validation")
    rows[0].clear()
    assert generate(name, "validation")[0]
