"""A setting's declaration says everything: what is allowed, and what it means."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import ABSENT, Checked, Setting, setting, setting_of, settings_of


@pytest.mark.parametrize(("known", "allowed", "refused"), [
    (Setting(help="", at_least=0), [0, 0.0, 5], [-1, float("nan"), float("inf")]),
    (Setting(help="", above=0), [1e-9, 3], [0, -0.0, float("nan"), float("inf")]),
    (Setting(help="", at_most=1), [1, -7], [1.1, float("nan"), float("-inf")]),
    (Setting(help="", below=1), [0.99], [1, float("nan"), float("inf")]),
    (Setting(help="", at_least=0, below=2), [0, 1.5], [-0.1, 2]),
    (Setting(help="", choices=("a", "b")), ["a", "b"], ["c", "A", ""]),
    (Setting(help=""), ["anything", -3, [1], {"a": 0.5}], [float("inf"), float("nan"), [1, float("nan")]]),
    (Setting(help="", at_most=1), [[1, 0], {"a": [1]}], [[1, 2], {"a": 2}, {"a": [0, 2]}, {"a": {"b": 2}}]),
])  # fmt: skip
def test_a_value_is_allowed_or_refused_as_declared(known: Setting, allowed: list[Any], refused: list[Any]) -> None:
    for value in (None, True, *allowed):
        if known.choices is None or value is not True:
            known.check("key", value)
    for value in refused:
        with pytest.raises(UserError, match=r"^key[.=]"):
            known.check("key", value)


@pytest.mark.parametrize(("known", "value", "words"), [
    (Setting(help="", at_least=2), 1, "key=1 is out of range; it must be at least 2"),
    (Setting(help="", above=0), 0, "key=0 is out of range; it must be above 0"),
    (Setting(help="", at_most=3), 4, "key=4 is out of range; it must be at most 3"),
    (Setting(help="", below=3), 3, "key=3 is out of range; it must be below 3"),
    (Setting(help="", at_least=0), float("inf"), "key=inf is out of range; it must be finite"),
    (Setting(help="", choices=("a", "b")), "c", "key=c is not known; choose one of: a, b"),
])  # fmt: skip
def test_the_message_says_what_is_allowed(known: Setting, value: Any, words: str) -> None:
    with pytest.raises(UserError) as raised:
        known.check("key", value)
    assert str(raised.value) == words


@dataclass(frozen=True, kw_only=True)
class Engine(Checked):
    section: ClassVar[str] = "engine"

    power: float = setting("in kilowatts", default=1.0, above=0)
    fuel: str = setting("what it burns", choices=("petrol", "hydrogen"), default="petrol", identity=False)
    cylinders: int = setting("how many", default=4, at_least=1, key="cylinders", before=4)
    extra: dict[str, int] = setting("anything else", default_factory=dict)
    plain: int = 0


def test_an_instance_is_checked_when_it_is_made_and_errors_name_its_section() -> None:
    assert Engine(power=3.0).extra == {}
    with pytest.raises(UserError, match=r"^engine\.power=0"):
        Engine(power=0)
    with pytest.raises(UserError, match=r"^cylinders=0"):  # its own key, without the section
        Engine(cylinders=0)
    with pytest.raises(UserError, match=r"^engine\.fuel=coal"):
        Engine(fuel="coal")


def test_what_is_declared_can_be_read_from_a_class_and_from_an_instance() -> None:
    for kind in (Engine, Engine()):
        known = {declared.name: known for declared, known in settings_of(kind)}
        assert known["power"].help == "in kilowatts"
        assert known["power"].identity
        assert not known["fuel"].identity
        assert (known["power"].before, known["cylinders"].before) == (ABSENT, 4)
        assert known["plain"].help == ""  # declared as an ordinary field


def test_an_ordinary_field_has_no_limits() -> None:
    [plain] = [declared for declared, _ in settings_of(Engine) if declared.name == "plain"]
    setting_of(plain).check("plain", -(10**9))
