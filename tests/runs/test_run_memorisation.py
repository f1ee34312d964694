"""Whole runs of the phone book: the record, resuming, and captured steps."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.deviations import deviations_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError

MakeSetup = Callable[..., ResolvedRun]
TINY = (
    "task=phonebook", "model=tiny_llama", "device=cpu", "task.pairs=12", "task.digits=2", "task.passes=2",
    "batch_size=5", "epochs=3", "lr=3e-3", "protocol=fair", "rank=2",
)  # fmt: skip
ROSA = ("method=rosa", "method.resample_every=3", "method.resample_unit=steps")
STEPS = 5  # per epoch


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path) -> MakeSetup:
    """``make_setup("place", "method=lora")``: a tiny run with these overrides in that folder."""

    def make(place: str, *overrides: str) -> ResolvedRun:
        where = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        return resolve(compose(*TINY, *overrides, *where), {})

    return make


def outcome(resolved: ResolvedRun, record: RunRecord) -> tuple[dict[str, Any], bytes]:
    scores = to_values(record)["scores"]
    scores["epochs"] = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
    return scores, (resolved.saved_model / "model.safetensors").read_bytes()


def test_the_record_says_what_was_memorised(make_setup: MakeSetup) -> None:
    record = run(make_setup("here", "method=ft", "epochs=30"))
    scores = to_values(record)["scores"]
    assert (scores["reported"], scores["lower_is_better"], scores["selected_on"]) == ("recall", False, "train")
    assert scores["selected_by"] == {"name": "loss", "lower_is_better": True}
    losses = [epoch["scores"]["loss"] for epoch in scores["epochs"]]
    assert scores["selected"] == {"epoch": losses.index(min(losses)) + 1, **min(
        (epoch["scores"] for epoch in scores["epochs"]), key=lambda one: one["loss"]
    )}  # fmt: skip
    assert set(scores["last"]) == {"epoch", "recall", "digit_accuracy", "bits_stored", "loss"}
    bits = 12 * 2 * math.log2(10)
    assert record.data.facts == {"pairs": 12, "digits": 2, "bits": bits}
    assert (record.data.rows.train, record.data.synthetic, record.data.official) == (12, True, True)
    assert record.selected["recall"] > 0.5
    assert record.bits_per_parameter == record.selected["bits_stored"] / 26_944 > 0


def test_bits_per_parameter_are_unknown_for_other_tasks_and_if_nothing_trains(
    make_record: Callable[..., RunRecord],
) -> None:
    assert make_record("task=cola").bits_per_parameter is None
    record = make_record("task=phonebook")
    assert record.scores.selected is not None
    record.scores.selected["bits_stored"] = 12.0
    for trained, expected in ((0, None), (None, None), (24, 0.5)):
        record.parameters.trainable = trained
        assert record.bits_per_parameter == expected


def test_the_pairs_depend_on_their_own_seed_only(make_setup: MakeSetup) -> None:
    def rows(*overrides: str) -> str:
        resolved = make_setup("here", *overrides)
        return resolved.config.task.prepare(resolved.context).info.fingerprint

    assert rows("seed=0") == rows("seed=1")
    assert rows("task.seed=0") != rows("task.seed=1")


@pytest.mark.parametrize("setting", ["limit_train=4", "limit_eval=4", "group_by_length=true", "stop_collapsed=true"])
def test_settings_that_do_not_apply_are_refused(compose: Callable[..., RunConfig], setting: str) -> None:
    with pytest.raises(UserError, match=f"^{setting} is not for task=phonebook: "):
        compose(*TINY, setting)


@pytest.mark.parametrize("method", ["lora", "rosa", "lora_plus", "ia3"])
def test_the_recipe_adapts_all_linear_layers_without_a_deviation(method: str) -> None:
    with composing() as composer:

        def made(*overrides: str) -> Any:
            return parse(composer.compose((f"method={method}", *overrides)))

        config = made("task=phonebook")
        assert not deviations_of(config)
        assert made("task=phonebook", "protocol=paper").protocol.name == "paper"
        assert made("task=restaurants").method.targets == "attention"
    assert config.method.targets == "all-linear"
    assert (config.protocol.name, config.optimizer.clip_norm, config.optimizer.weight_decay) == ("fair", 1.0, 0.0)
    assert (tuple(config.optimizer.betas), config.optimizer.eps) == ((0.9, 0.98), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", [ROSA, ("method=lora", "accumulate=2")], ids=" ".join)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    make_setup: MakeSetup, at_step: Any, how: tuple[str, ...]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    alone = make_setup("alone", *how, "save_model=true")
    expected = outcome(alone, run(alone))
    resolved = make_setup("broken", *how, "save_model=true", "checkpoint_s=0")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(STEPS + 2, interrupt)])
    made = at_step(-1, interrupt)
    assert outcome(resolved, run(resolved, [made])) == expected
    assert made.steps == list(range(STEPS + 2, 3 * STEPS))


@pytest.mark.gpu
@pytest.mark.parametrize("how", [ROSA, ("method=lora", "accumulate=2"), ("method=ft",)], ids=" ".join)
def test_captured_steps_give_the_scores_of_plain_ones(make_setup: MakeSetup, how: tuple[str, ...]) -> None:
    def scores(choice: str) -> list[dict[str, float | None]]:
        resolved = make_setup(choice, *how, "device=cuda", "precision=float32", f"cuda_graphs={choice}", "batch_size=4")
        return [epoch.scores for epoch in run(resolved).scores.epochs]

    for found, expected in zip(scores("always"), scores("never"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
