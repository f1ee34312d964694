from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from rosa_bench.errors import UserError, at_least, one_of
from rosa_bench.typed import typed


@dataclass(kw_only=True)
class Inner:
    depth: int
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    pair: tuple[float, float] = (0.0, 1.0)
    title: str | None = None
    inner: Inner | None = None
    extra: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("rate", self.rate, 0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_values_become_what_their_types_say(wrapped: bool) -> None:
    values = {"rate": 3, "inner": {"depth": 2, "names": ["a"]}, "extra": {"x": 1}, "pair": [1, 2]}
    found = typed(Outer, OmegaConf.create(values) if wrapped else values)
    assert found == Outer(rate=3.0, inner=Inner(depth=2, names=["a"]), extra={"x": 1.0}, pair=found.pair)
    assert tuple(found.pair) == (1.0, 2.0)
    assert type(found) is Outer
    assert type(found.rate) is float
    assert type(found.inner) is Inner


@pytest.mark.parametrize(("values", "key"), [
    ({"rate": "fast"}, "rate"),
    ({"rate": None}, "rate"),
    ({"rate": [1]}, "rate"),
    ({"rate": 1, "speed": 2}, "speed"),
    ({"rate": 1, "inner": {"depth": "deep"}}, "inner.depth"),
    ({"rate": 1, "inner": {"depth": 1.5}}, "inner.depth"),
    ({"rate": 1, "inner": {"depth": 1, "width": 2}}, "inner.width"),
    ({"rate": 1, "extra": {"x": "y"}}, "extra.x"),
    ({"title": "no rate"}, "rate"),
    ({"rate": 1, "inner": {}}, "inner.depth"),
    ({"rate": "${nowhere}"}, "rate"),
])  # fmt: skip
@pytest.mark.parametrize("at", ["", "method"])
def test_what_does_not_fit_is_told_in_one_line_with_its_key(values: dict, key: str, at: str) -> None:
    with pytest.raises(UserError) as raised:
        typed(Outer, values, at=at)
    message = str(raised.value)
    assert message.startswith(f"{at}.{key}: " if at else f"{key}: ")
    assert "\n" not in message


def test_what_a_class_itself_refuses_is_told_as_it_says_it() -> None:
    with pytest.raises(UserError, match=r"^rate=-1\.0 is out of range; it must be at least 0$"):
        typed(Outer, {"rate": -1})


def test_the_values_given_stay_as_they_are() -> None:
    values = OmegaConf.create({"rate": 1, "inner": {"depth": 2}})
    found = typed(Outer, values)
    assert found.inner is not None
    found.inner.names.append("new")
    assert values == {"rate": 1, "inner": {"depth": 2}}
    assert typed(Outer, values).inner == Inner(depth=2)


# The checks that settings share


@pytest.mark.parametrize(("value", "least", "above", "fits"), [
    (0, 0, False, True), (-1, 0, False, False), (0, 0, True, False), (1e-9, 0, True, True), (None, 5, False, True),
    (float("nan"), 0, False, False), (float("inf"), 0, False, False), (float("nan"), 0, True, False),
])  # fmt: skip
def test_a_bound_is_kept(value: float | None, least: float, above: bool, fits: bool) -> None:
    if fits:
        at_least("key", value, least, above=above)
    else:
        with pytest.raises(UserError, match=rf"key={value} .*{'above' if above else 'at least'} {least}"):
            at_least("key", value, least, above=above)


def test_a_choice_is_one_of_those_there_are() -> None:
    one_of("key", "b", ("a", "b"))
    with pytest.raises(UserError, match=r"^key=c is not known; choose one of: a, b$"):
        one_of("key", "c", ("a", "b"))
