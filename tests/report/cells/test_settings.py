from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import Deviation, listed, setting_of, variant_of, words

MakeRecord = Callable[..., RunRecord]


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml")))
def test_an_unchanged_method_is_named_by_title_and_rank(make_record: MakeRecord, name: str) -> None:
    record = make_record(f"method={name}", "rank=4")
    method = record.settings.method
    assert variant_of(record).label == (method.title if method.rank is None else f"{method.title} (r=4)")


@pytest.mark.parametrize(
    ("deviations", "label"),
    [
        ({"method.resample_every": [0, 2.0]}, "ROSA (r=8, resample_every=0)"),
        ({"method.select": ["top", "random"], "method.init": ["zero", "svd"]}, "ROSA (r=8, init=zero, select=top)"),
        ({"epochs": [3, 10]}, "ROSA (r=8)"),
        ({"method.title": ["Mine", "ROSA"], "method.default_lr.paper": [1.0, 2.0]}, "ROSA (r=8)"),
        # A change that follows from the protocol is not the method's own ...
        ({"protocol.train_head": [True, False], "method.train_head": [True, False]}, "ROSA (r=8)"),
        ({"protocol.lora_init": ["kaiming", "normal"], "method.init": ["kaiming", "normal"]}, "LoRA (r=8)"),
        # ... but a different change is.
        (
            {"protocol.train_head": [True, False], "method.train_biases": [False, True]},
            "ROSA (r=8, train_biases=false)",
        ),
        ({"protocol.gone": [3, 1], "method.gone": [3, 2]}, "ROSA (r=8, gone=3)"),
        ({"protocol.train_head": [True, False], "method.stagger": [True, False]}, "ROSA (r=8, stagger=true)"),
    ],
)
def test_changes_are_in_the_label(make_record: MakeRecord, deviations: dict[str, list[Any]], label: str) -> None:
    method = "lora" if label.startswith("LoRA") else "rosa"
    assert variant_of(make_record(f"method={method}", deviations=deviations)).label == label


def test_numbers_compare_by_value(make_record: MakeRecord) -> None:
    """On a command line, ``resample_every=0`` and ``resample_every=0.0`` are the same."""
    one, other = (make_record(deviations={"method.resample_every": [value, 2.0]}) for value in (0, 0.0))
    assert variant_of(one) == variant_of(other)


def test_a_default_is_shown_and_never_compared() -> None:
    """It may differ between the records of two methods."""
    assert Deviation("epochs", 3, expected=10) == Deviation("epochs", 3, expected=5) != Deviation("epochs", 4, 10)


def test_weights_are_the_same_in_any_order_of_their_keys(make_record: MakeRecord) -> None:
    one, other = make_record(), make_record("seed=1")
    other.model = type(other.model)(reversed(list(other.model.items())))
    assert list(one.model) != list(other.model)
    assert setting_of(one) == setting_of(other)


def test_lists_among_deviations(make_record: MakeRecord) -> None:
    setting = setting_of(make_record(deviations={"optimizer.betas": [[0.9, 0.999], [0.9, 0.98]]}))
    assert [(change.key, words(change.value)) for change in setting.deviations] == [("optimizer.betas", "[0.9, 0.999]")]
    assert len({setting}) == 1


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "none"), (True, "true"), (2.0, "2"), (1e-05, "1e-05"), ("a", "a")]
)
def test_words(value: Any, expected: str) -> None:
    assert words(value) == expected


def test_values_are_listed_with_numbers_by_size() -> None:
    assert listed([10, "b", 2.5, None, True, 1e-5, "a", 0]) == "0, 1e-05, 2.5, 10, a, b, none, true"
