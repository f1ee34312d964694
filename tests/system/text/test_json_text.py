import json

import pytest

from rosa_bench.system.text.json_text import DEEPEST, check_depth, loads


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_values_are_loaded_up_to_the_deepest_level(opening: str, closing: str) -> None:
    levels = sum(opening.count(one) for one in "[{")
    fits = DEEPEST // levels
    allowed = opening * fits + "1" + closing * fits
    assert loads(allowed) == json.loads(allowed)
    for count in (fits + 1, 3000, 100_000):  # 3000 levels are parsed from Python 3.12 on
        with pytest.raises(RecursionError):
            loads(opening * count + "1" + closing * count)


def test_many_brackets_are_not_depth() -> None:
    many = json.dumps({"text": "[{" * DEEPEST, "rows": [[]] * 3 * DEEPEST, "next": [{"a": [1]}] * DEEPEST})
    assert loads(many) == json.loads(many)


def test_bytes_are_counted_as_text_is() -> None:
    deep = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
    with pytest.raises(RecursionError):
        check_depth(json.loads(deep), deep.encode())
