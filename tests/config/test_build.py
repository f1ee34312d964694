from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from rosa_bench.config.build import _by_omegaconf, build, typed
from rosa_bench.config.declared import UnfittingError, fitting
from rosa_bench.system.errors import UserError, at_least, one_of


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
def test_values_are_converted_to_the_declared_types(wrapped: bool) -> None:
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
def test_a_wrong_value_is_reported_in_one_line_with_its_key(values: dict, key: str, at: str) -> None:
    with pytest.raises(UserError) as raised:
        typed(Outer, values, at=at)
    message = str(raised.value)
    named = f"{at}.{key}" if at else key
    assert message.startswith((f"{named}: ", f"{named}="))
    assert "\n" not in message


@pytest.mark.parametrize(("values", "message"), [
    ({"rate": "fast"}, "rate=fast is not a number"),
    ({"rate": "it's of type 'x'"}, "rate=it's of type 'x' is not a number"),
    ({"rate": 1, "inner": {"depth": 1.5}}, "inner.depth=1.5 is not a whole number"),
])  # fmt: skip
def test_a_value_of_the_wrong_kind_is_reported_in_plain_words(values: dict, message: str) -> None:
    with pytest.raises(UserError) as raised:
        typed(Outer, values)
    assert str(raised.value) == message


WHOLE = {"depth": 1, "names": []}


@dataclass(kw_only=True)
class Whole:
    inner: Inner = field(default_factory=lambda: Inner(depth=7, names=["a"]))
    inners: list[Inner] = field(default_factory=list)
    named: dict[str, Inner | None] = field(default_factory=dict)
    pair: tuple[float, float] = (0.0, 1.0)
    mixed: tuple[int, str] | None = None


@pytest.mark.parametrize(("values", "fits"), [
    ({"inner": WHOLE, "pair": [1, 2]}, True),
    ({"inner": WHOLE, "inners": [{"depth": 1}, {"depth": 2, "names": ["${a}"]}], "pair": [1, 2, 3]}, True),
    ({"inner": WHOLE, "named": {"a": {"depth": 1}, "b": None}, "pair": [0.5, 1]}, True),
    ({"inner": {"depth": 1}, "pair": [1, 2]}, False),  # the default's names stay
    ({"inner": WHOLE, "mixed": [1, 2], "pair": [1, 2]}, False),
    ({"inner": WHOLE, "inners": [{"depth": "1"}], "pair": [1, 2]}, False),
    ({"inner": WHOLE}, False),  # the default is a tuple
])  # fmt: skip
def test_dataclasses_inside_are_those_of_omegaconf(values: dict, fits: bool) -> None:
    expected = _by_omegaconf(Whole, values, "")
    assert repr(typed(Whole, values)) == repr(expected)
    if fits:
        assert repr(Whole(**fitting(Whole, values))) == repr(expected)
    else:
        with pytest.raises(UnfittingError):
            fitting(Whole, values)


def test_an_error_of_the_class_itself_is_passed_on() -> None:
    with pytest.raises(UserError, match=r"^rate=-1\.0 is out of range; it must be at least 0$"):
        typed(Outer, {"rate": -1})


def test_the_given_values_are_not_changed() -> None:
    values = OmegaConf.create({"rate": 1, "inner": {"depth": 2}})
    found = typed(Outer, values)
    assert found.inner is not None
    found.inner.names.append("new")
    assert values == {"rate": 1, "inner": {"depth": 2}}
    assert typed(Outer, values).inner == Inner(depth=2)


# Classes with a common base


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    side: int


SQUARE = f"{__name__}.Square"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("values", "expected"), [
    ({"name": "a", "radius": 2}, Circle(name="a", radius=2.0)),
    ({"_target_": None, "name": "a", "radius": 2}, Circle(name="a", radius=2.0)),
    ({"_target_": SQUARE, "name": "b", "side": 3}, Square(name="b", side=3)),
])  # fmt: skip
def test_the_class_is_the_named_one_or_the_default(values: dict, expected: Shape, wrapped: bool) -> None:
    given = OmegaConf.create(values) if wrapped else values
    found = build(Shape, given, at="shape", default=Circle)
    assert found == expected
    assert type(found) is type(expected)
    assert given == values


@pytest.mark.parametrize(("target", "reason"), [
    ("nowhere_at_all.Circle", "is not a rosa_bench Shape"),  # not even imported
    (f"{__name__}.Absent", "cannot be imported"),
    ("Circle", "is not a rosa_bench Shape"),
    ("", "is not a rosa_bench Shape"),
    (f"{__name__}.Outer", "is not a rosa_bench Shape"),  # a dataclass with another base
    ("math.pi", "is not a rosa_bench Shape"),
    ("os.getcwd", "is not a rosa_bench Shape"),
])  # fmt: skip
def test_a_wrong_target_is_reported_in_one_line(target: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        build(Shape, {"_target_": target, "name": "a", "radius": 2}, at="shape", default=Circle)
    message = str(raised.value)
    assert message.startswith(f"shape._target_={target} {reason}")
    assert "\n" not in message


def test_without_a_default_the_target_must_be_given() -> None:
    assert build(Shape, {"_target_": SQUARE, "name": "b", "side": 3}, at="shape") == Square(name="b", side=3)
    with pytest.raises(UserError, match=r"^shape\._target_=None is not a rosa_bench Shape$"):
        build(Shape, {"name": "b", "side": 3}, at="shape")


@pytest.mark.parametrize(("values", "key"), [
    ({"name": "a", "side": 2}, "side"),  # a key of another class
    ({"name": "a"}, "radius"),
    ({"_target_": SQUARE, "name": "a", "side": "long"}, "side"),
    ({"_target_": SQUARE, "name": "a", "radius": 2}, "radius"),
])  # fmt: skip
def test_the_keys_of_the_chosen_class_are_checked(values: dict, key: str) -> None:
    with pytest.raises(UserError) as raised:
        build(Shape, values, at="shape", default=Circle)
    assert str(raised.value).startswith((f"shape.{key}: ", f"shape.{key}="))


# Checks shared by settings


@pytest.mark.parametrize(("value", "least", "above", "fits"), [
    (0, 0, False, True), (-1, 0, False, False), (0, 0, True, False), (1e-9, 0, True, True), (None, 5, False, True),
    (float("nan"), 0, False, False), (float("inf"), 0, False, False), (float("nan"), 0, True, False),
])  # fmt: skip
def test_at_least_enforces_its_bound(value: float | None, least: float, above: bool, fits: bool) -> None:
    if fits:
        at_least("key", value, least, above=above)
    else:
        with pytest.raises(UserError, match=rf"key={value} .*{'above' if above else 'at least'} {least}"):
            at_least("key", value, least, above=above)


def test_one_of_rejects_unknown_choices() -> None:
    one_of("key", "b", ("a", "b"))
    with pytest.raises(UserError, match=r"^key=c is not known; choose one of: a, b$"):
        one_of("key", "c", ("a", "b"))
