"""A pack's records, checkpoints and resumes, against those of each run alone."""

import io
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rosa_bench.config.groups import names_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.packs.packed import UnpackableError
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.runs.packing import pack
from rosa_bench.runs.packing.pack import run_pack
from rosa_bench.runs.packing.packs import packs
from rosa_bench.runs.planning.plan import plan, show
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.runs.status import status_of
from rosa_bench.system.errors import PreemptedError, UserError
from rosa_bench.training import packed
from rosa_bench.training.checkpoint import read

TINY = (
    "task=grammar", "model=tiny_roberta", "method=rosa", "method.resample_every=1", "device=cpu", "epochs=2", "rank=2",
    "limit_train=40", "limit_eval=24", "batch_size=8", "optimizer.eps=1e-5",
    "model.random.attention_probs_dropout_prob=0.1",
)  # fmt: skip
LRS = ("1e-3", "3e-3", "2e-2")
MakeRuns = Callable[..., list[ResolvedRun]]


@pytest.fixture
def make_runs(compose: Callable[..., RunConfig], tmp_path: Path) -> MakeRuns:
    """``make_runs("place", "rank=4")``: tiny runs with three learning rates and their results in that folder."""

    def make(place: str, *overrides: str, lrs: tuple[str, ...] = LRS) -> list[ResolvedRun]:
        where = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        return [resolve(compose(*TINY, f"lr={lr}", *overrides, *where), {}) for lr in lrs]

    return make


def scores(record: RunRecord | BaseException) -> dict[str, Any]:
    assert isinstance(record, RunRecord), record
    values = to_values(record)
    for epoch in values["scores"]["epochs"]:
        epoch["time_s"] = 0
    return {key: values[key] for key in ("id", "status", "scores", "resamples", "parameters")}


def flat(values: Any, at: str = "") -> dict[str, Any]:
    """Return the numbers and texts inside nested values by their place."""
    if isinstance(values, dict):
        values = list(values.items())
    elif isinstance(values, list):
        values = list(enumerate(values))
    else:
        return {at: values}
    return {key: one for name, inner in values for key, one in flat(inner, f"{at}.{name}").items()}


def assert_alike(found: RunRecord | BaseException, expected: RunRecord) -> None:
    one, other = flat(scores(found)), flat(scores(expected))
    assert one.keys() == other.keys()
    for key, value in other.items():
        assert one[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), key


@pytest.mark.slow
def test_records_are_those_of_runs_alone_and_say_that_they_were_packed(make_runs: MakeRuns) -> None:
    found = run_pack(make_runs("together"))
    for record, alone in zip(found, make_runs("alone"), strict=True):
        expected = run(alone)
        assert_alike(record, expected)
        assert isinstance(record, RunRecord) and record.packed == 3
        assert "packed" not in to_values(expected)
        assert status_of(alone).kind == "completed"


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the process to stop while the pack makes this step, counted from 1."""
    optimise, steps = packed.Pack.optimise, []

    def stopping(pack: packed.Pack, batch: dict[str, Tensor]) -> Tensor:
        steps.append(step)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return optimise(pack, batch)

    monkeypatch.setattr(packed.Pack, "optimise", stopping)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.long)])
def test_a_resumed_pack_ends_bit_for_bit_like_an_uninterrupted_one(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = run_pack(make_runs("whole"))
    with monkeypatch.context() as patch:
        stopped_at(step, patch)
        with pytest.raises(PreemptedError, match=f"after step {step}"):
            run_pack(make_runs("stopped"))
    runs = make_runs("stopped")
    assert [status_of(one).kind for one in runs] == ["unfinished"] * 3
    assert [len(pack) for pack in packs([*make_runs("whole", "packed=3"), *make_runs("stopped", "packed=3")])] == [3, 3]
    generators = [read(next(one.checkpoints.glob("*"))).tensors["training.random.torch"] for one in runs]
    assert all(torch.equal(generators[0], state) for state in generators)
    for record, expected in zip(run_pack(runs), whole, strict=True):
        assert scores(record) == scores(expected)


@pytest.mark.slow
def test_a_run_of_a_stopped_pack_can_go_on_alone(make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_pack(make_runs("whole"))
    with monkeypatch.context() as patch:
        stopped_at(3, patch)
        with pytest.raises(PreemptedError):
            run_pack(make_runs("stopped"))
    _, second, _ = make_runs("stopped")
    record = run(second)
    assert isinstance(whole[1], RunRecord)
    assert_alike(record, whole[1])
    assert not record.packed


@pytest.mark.slow
def test_runs_that_are_not_equally_far_do_not_train_together(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(3, patch)
        with pytest.raises(PreemptedError):
            run_pack(make_runs("stopped"))
    runs = make_runs("stopped")
    next(runs[1].checkpoints.glob("*/values.json")).write_text("{}")  # a damaged checkpoint is skipped
    for outcome in run_pack(runs):
        assert isinstance(outcome, UnpackableError)
        assert "not equally far" in str(outcome)
    assert [status_of(one).kind for one in runs] == ["unfinished"] * 3


@pytest.mark.slow
def test_a_run_that_fails_has_its_own_record(make_runs: MakeRuns) -> None:
    lrs = ("1e-3", "1e30", "3e-3")
    outcomes, runs = run_pack(make_runs("together", lrs=lrs)), make_runs("together", lrs=lrs)
    alone = make_runs("alone", lrs=lrs)[1]
    with pytest.raises(RuntimeError) as error:
        run(alone)
    assert str(outcomes[1]) == str(error.value)
    kind, record = status_of(runs[1])
    expected = status_of(alone).record
    assert kind == "failed" and record is not None and expected is not None and record.error == expected.error
    assert [status_of(one).kind for one in runs] == ["completed", "failed", "completed"]


def test_an_error_outside_of_the_runs_ends_all_of_them(make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(pack, "surroundings", fail)
    assert [str(outcome) for outcome in run_pack(make_runs("together"))] == ["no device"] * 3
    assert [status_of(one).kind for one in make_runs("together")] == ["failed"] * 3


def train_losses(record: RunRecord) -> list[float]:
    return [epoch.train_loss for epoch in record.scores.epochs]


@pytest.mark.gpu
def test_a_pack_trains_and_shrinks_in_captured_graphs_on_a_gpu(make_runs: MakeRuns) -> None:
    overrides = ("device=cuda", "limit_train=200")
    first, failed, last = run_pack(make_runs("together", *overrides, lrs=("1e-3", "1e30", "3e-3")))
    assert isinstance(failed, RuntimeError)
    assert isinstance(first, RunRecord) and isinstance(last, RunRecord)
    assert train_losses(first) != train_losses(last)
    for record, alone in zip((first, last), make_runs("alone", *overrides, lrs=("1e-3", "3e-3")), strict=True):
        assert train_losses(record) == pytest.approx(train_losses(run(alone)), rel=1e-2)  # bfloat16


# Which runs go together


def test_runs_that_differ_in_the_learning_rate_alone_go_together(make_runs: MakeRuns) -> None:
    runs = [
        *make_runs("a", "packed=2"),
        *make_runs("a", "packed=2", "rank=4"),
        *make_runs("a", "packed=2", "seed=1"),
        *make_runs("a", "packed=1", "seed=2"),
    ]
    found = [[(one.config.method.rank, one.config.seed, one.config.lr) for one in pack] for pack in packs(runs)]  # pyrefly: ignore[missing-attribute]
    cells = [[(rank, seed, lr) for lr in (1e-3, 3e-3, 2e-2)] for rank, seed in ((2, 0), (4, 0), (2, 1), (2, 2))]
    halved = [part for cell in cells[:3] for part in (cell[:2], cell[2:])]
    assert found == [*halved, *([one] for one in cells[3])]


def test_runs_that_are_alone_keep_their_order(make_runs: MakeRuns) -> None:
    runs = [one for pair in zip(make_runs("a"), make_runs("a", "seed=1"), strict=True) for one in pair]
    assert packs(runs) == [[one] for one in runs]


@pytest.mark.parametrize(("device", "overrides", "sizes"), [
    ("cpu", (), [1] * 9), ("cuda:1", (), [8, 1]), ("cuda:1", ("base_dtype=bfloat16",), [1] * 9),
])  # fmt: skip
def test_by_itself_a_gpu_takes_eight_runs_that_can_go_together(
    make_runs: MakeRuns, device: str, overrides: tuple[str, ...], sizes: list[int]
) -> None:
    runs = make_runs("a", "packed=auto", *overrides, lrs=tuple(f"{number}e-3" for number in range(1, 10)))
    assert [len(pack) for pack in packs([replace(one, device_name=device) for one in runs])] == sizes


def test_nothing_is_packed_unless_it_is_asked_for(make_runs: MakeRuns) -> None:
    assert [len(pack) for pack in packs(make_runs("a"))] == [1, 1, 1]


def test_a_plan_shows_its_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = io.StringIO()
    show(plan([*TINY, "lr=1e-3,2e-3,3e-3", "rank=2,4", "packed=2"], str), Console(file=text, width=200))
    assert "runs in one pass: 2 x 2" in text.getvalue()


@pytest.mark.parametrize("method", names_in("method"))
def test_a_method_without_a_packed_form_is_refused_in_one_line(compose: Callable[..., RunConfig], method: str) -> None:
    task = ("task=grammar", "model=tiny_roberta")
    if compose(*task, f"method={method}").method.packable:
        assert compose(*task, f"method={method}", "packed=4").packed == 4
        return
    with pytest.raises(UserError, match=rf"packed=4 .*method={method} cannot.*packed=auto or 1"):
        compose(*task, f"method={method}", "packed=4")


def test_the_number_of_runs_is_checked(compose: Callable[..., RunConfig]) -> None:
    for value in ("0", "-1", "many", "1.5", "2000"):
        with pytest.raises(UserError, match="packed"):
            compose(*TINY, f"packed={value}")
