import math
from collections.abc import Callable

import pytest
from scipy.stats import ttest_1samp

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.arms import (
    Estimate,
    arm_labels,
    arm_order,
    common_words,
    estimate,
    is_resampled,
    sharing_words,
)
from rosa_bench.report.cells.settings import Variant, variant_of
from rosa_bench.report.cells.words.facts import fact, is_memorised, is_text, per_parameter

MakeRecord = Callable[..., RunRecord]
STEPS = {"method.resample_unit": ["steps", "epochs"]}


def rosa(make: MakeRecord, every: float, *overrides: str, **own: list) -> RunRecord:
    changes = {f"method.{key}": pair for key, pair in own.items()}
    asked = [f"{key}={value}" for key, (value, _) in changes.items()]
    return make(
        0.5, "method=rosa", "rank=1", f"method.resample_every={every}", "method.resample_unit=steps", *asked,
        *overrides,
        deviations={"method.resample_every": [every, 1.0], **STEPS, **changes},
    )  # fmt: skip


def by_variant(*runs: RunRecord) -> dict[Variant, RunRecord]:
    return {variant_of(run): run for run in runs}


def labels(*runs: RunRecord) -> list[str]:
    return list(arm_labels(by_variant(*runs)).values())


def test_an_interval_is_students() -> None:
    values = [0.5, 0.75, 0.7]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    mean, half = sum(values) / 3, (high - low) / 2
    found = estimate(values)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.whiskers == pytest.approx((half, half))
    assert found.times(100).high == pytest.approx(100 * (mean + half))
    assert found.text("{:.2f}") == f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.5, 0.5 + 1e-16, 0.5 - 1e-16]])
def test_without_spread_there_is_no_interval(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert (found.mean, found.low, found.whiskers, found.text()) == (pytest.approx(0.5), None, (0, 0), "0.5")


@pytest.mark.parametrize("values", [[], [None], [0.5, None], [0.5, math.nan], [math.inf]])
def test_an_unknown_value_leaves_no_mean(values: list[float | None]) -> None:
    assert estimate(values) is None


def test_spread_is_measured_against_the_values() -> None:
    tiny, huge = estimate([1e-10, 2e-10]), estimate([1e12, 1e12 + 1])
    assert tiny is not None
    assert huge is not None
    assert (tiny.low is None, huge.low) == (False, None)


@pytest.mark.parametrize(("mean", "ends", "whiskers"), [
    (0.5, (0.2, 0.8), (0.3, 0.3)), (0.9, (0.5, 1.3), (0.4, 0.1)), (0.1, (-0.3, 0.5), (0.1, 0.4)),
    (1.5, (1.2, 1.8), (0.3, 0.0)), (-0.5, (-0.8, -0.2), (0.0, 0.3)),  # a mean that is impossible keeps its place
])  # fmt: skip
def test_whiskers_end_at_what_is_possible(
    mean: float, ends: tuple[float, float], whiskers: tuple[float, float]
) -> None:
    found = Estimate(mean=mean, low=ends[0], high=ends[1]).within(0.0, 1.0)
    assert found.whiskers == pytest.approx(whiskers)


def test_names_say_what_differs_and_nothing_else(make_memorised: MakeRecord) -> None:
    late = {"last_resample": [0.8, 1.0]}
    lora = make_memorised(
        0.5, "method=lora", "rank=1", "method.resample_every=50", "method.resample_unit=steps",
        "method.last_resample=0.8",
        deviations={"method.resample_every": [50, 0], **STEPS, "method.last_resample": [0.8, 1.0]},
    )  # fmt: skip
    runs = [
        make_memorised(0.5, "method=ft"),
        make_memorised(0.5, "method=lora", "rank=1"),
        make_memorised(0.5, "method=lora", "rank=8"),
        lora,
        rosa(make_memorised, 0, **late),
        rosa(make_memorised, 50, **late),
        rosa(make_memorised, 50, init=["zero", "svd"], **late),
    ]
    assert labels(*runs) == [
        "FT", "LoRA r=1", "LoRA r=8", "LoRA r=1, every 50 steps", "ROSA r=1", "ROSA r=1, every 50 steps",
        "ROSA r=1, every 50 steps, init=zero",
    ]  # fmt: skip
    assert common_words(by_variant(*runs)) == "methods that resample: last_resample=0.8"
    assert [is_resampled(run) for run in runs] == [False, False, False, True, False, True, True]


def test_a_setting_that_arms_do_not_share_is_in_their_names(make_memorised: MakeRecord) -> None:
    runs = rosa(make_memorised, 50, last_resample=[0.8, 1.0]), rosa(make_memorised, 50)
    assert labels(*runs) == ["ROSA r=1, every 50 steps, last_resample=0.8", "ROSA r=1, every 50 steps"]


def test_a_default_period_is_named_too(make_memorised: MakeRecord) -> None:
    for protocol, name in (("paper", "ROSA r=2, every 1 epochs"), ("fair", "ROSA r=2")):
        assert labels(make_memorised(0.5, "method=rosa", "rank=2", f"protocol={protocol}")) == [name]


def test_arms_are_in_the_order_of_legends(make_memorised: MakeRecord) -> None:
    runs = [
        rosa(make_memorised, 25),
        rosa(make_memorised, 100, init=["zero", "svd"]),
        rosa(make_memorised, 0),
        rosa(make_memorised, 100),
        make_memorised(0.5, "method=lora", "rank=8"),
        make_memorised(0.5, "method=lora", "rank=1"),
        make_memorised(0.5, "method=ft"),
    ]
    ordered = sorted(runs, key=lambda run: arm_order(variant_of(run), run))
    assert [runs.index(run) for run in ordered] == [6, 5, 4, 2, 3, 0, 1]


def test_facts_are_positive_numbers_whatever_a_record_says(make_memorised: MakeRecord) -> None:
    run = make_memorised(0.5, trainable=1000)
    bits = 4096 * 8 * math.log2(10)
    assert fact(run, "bits") == pytest.approx(bits)
    assert per_parameter(run) == pytest.approx(bits / 1000)
    assert (is_memorised(run), is_text(run)) == (True, False)
    for value in (None, "many", True, [3], 0, -1):
        run.data.facts["bits"] = value
        assert fact(run, "bits") is None
    assert per_parameter(run) is None


def test_sharing_is_said_as_far_as_it_is_known(make_memorised: MakeRecord) -> None:
    runs = [make_memorised(0.5, f"seed={seed}") for seed in range(3)]
    assert not sharing_words(runs)
    runs[0].device.shared_by = 4
    runs[1].device.shared_by = 1
    assert sharing_words(runs).startswith("GPU shared by up to 4 processes in 1 of 3 runs; not recorded in 1.")
