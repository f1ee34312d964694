import json
from typing import Any

import pytest

from rosa_bench.records.shape import NUMBER, misfit

SHAPE: dict[Any, Any] = {"a": int, "b?": NUMBER, "c": {...: [str]}, "d?": {"one", "two"}, "e?": lambda e: e == 5}


@pytest.mark.parametrize("value", [
    {"a": 1, "c": {}},
    {"a": 1, "c": {"x": [], "y": ["z"]}, "more": None},
    {"a": 1, "b": 2, "c": {}, "d": "one"},
    {"a": 1, "b": 2.5, "c": {}, "d": "two", "e": 5},
])  # fmt: skip
def test_what_fits(value: Any) -> None:
    assert misfit(value, SHAPE) is None


@pytest.mark.parametrize(("value", "said"), [
    ([], "it is []"),
    (None, "it is null"),
    ({}, "a is missing"),
    ({"a": 1}, "c is missing"),
    ({"a": "1", "c": {}}, 'a is "1"'),
    ({"a": 1.5, "c": {}}, "a is 1.5"),
    ({"a": 1, "b": None, "c": {}}, "b is null"),
    ({"a": 1, "c": []}, "c is []"),
    ({"a": 1, "c": {"x": "y"}}, 'c.x is "y"'),
    ({"a": 1, "c": {"x": ["y", 3]}}, "c.x.1 is 3"),
    ({"a": 1, "c": {}, "d": "three"}, 'd is "three", not one of one, two'),
    ({"a": 1, "c": {}, "d": ["one"]}, 'd is ["one"], not one of one, two'),
    ({"a": 1, "c": {}, "e": 6}, "e is 6"),
    ({"a": 1, "c": {"x": "y" * 100}}, f'c.x is "{"y" * 39}...'),
])  # fmt: skip
def test_what_does_not_fit_is_told_with_its_place(value: Any, said: str) -> None:
    assert misfit(json.loads(json.dumps(value)), SHAPE) == said
