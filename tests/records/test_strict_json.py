"""JSON is read by msgspec where that is quicker, and by Python's reader in every other case, with the same result."""

import json

import pytest

from rosa_bench.records.strict_json import loads


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -0, 2.5, 1e5, 0.1, true, null, "x"], "b": {"c": ": d", "e": ""}}',
        r'{"quoted": "\"a\": 1", "slash": "\\ \/", "line": "a\nb"}',
        r'{"a\u0022": "\u00e9", "\ud83d\ude00": 1}',
        '{"é": "日本 \x7f"}',
        "12345678901234567890123",  # more than 64 bits
        "-0.0",
        " [ ] ",
    ],
)
def test_what_both_readers_know_is_the_same(text: str) -> None:
    found = loads(text.encode())
    assert repr(found) == repr(json.loads(text)) == repr(loads(text))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_python_s_own_numbers_are_none(number: str) -> None:
    assert loads(f'\ufeff{{"a": {number}}}'.encode()) == {"a": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" occurs twice'),
        (b'{"a" : "x", "a" : ":"}', 'the key "a" occurs twice'),  # as many colons as if it did not
        (b'{"a": "\\u0022", "a": "\\u0022\\u0022"}', 'the key "a" occurs twice'),  # as many quotation marks
        (b'{"a": "\\"", "a": "\\""}', 'the key "a" occurs twice'),
        (b"[1" + b"0" * 30 + b"]", "an integer has 31 digits"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b"[" * 10**5, "nested too deeply"),
        (b'"\xff"', "utf-8"),
        (b'"a\tb"', "Invalid control character"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
    ],
)
def test_what_readers_disagree_on_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loads(text)
