"""Whole runs of a phone book that is learned in parts: the record, resuming, packs, captured steps."""

from collections.abc import Callable
from typing import Any

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_record
from rosa_bench.report.cells.selection.reported import reporting
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.show.one_run import blocks
from rosa_bench.report.tables import memorisation
from rosa_bench.runs.packing.pack import run_pack
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run

MakeSetup = Callable[..., ResolvedRun]
TINY = (
    "task=phonebook", "model=tiny_llama", "device=cpu", "task.pairs=12", "task.digits=2", "task.passes=2",
    "task.parts=3", "batch_size=4", "epochs=6", "lr=3e-3", "protocol=fair", "rank=2",
)  # fmt: skip
ROSA = ("method=rosa", "method.resample_every=3", "method.resample_unit=steps")
STEPS = 2  # per epoch


@pytest.fixture(scope="module")
def make_setup(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> MakeSetup:
    """``make_setup("place", "method=lora")``: a tiny run with these overrides in that folder."""
    folder = tmp_path_factory.mktemp("runs")

    def make(place: str, *overrides: str) -> ResolvedRun:
        where = (f"results_dir='{folder / place / 'results'}'", f"output_dir='{folder / place / 'outputs'}'")
        return resolve(compose(*TINY, *overrides, *where), {})

    return make


@pytest.fixture(scope="module")
def learned(make_setup: MakeSetup) -> ResolvedRun:
    """A run that learns each part well, in 50 steps of its own."""
    resolved = make_setup("learned", "method=ft", "task.passes=25", "lr=1e-2")
    run(resolved)
    return resolved


def parts_of(scores: dict[str, Any]) -> list[float]:
    return [scores[f"recall_part_{part}"] for part in (1, 2, 3)]


def results(record: RunRecord) -> dict[str, Any]:
    scores = to_values(record)["scores"]
    scores["epochs"] = [{**epoch, "time_s": 0} for epoch in scores["epochs"]]
    return scores


@pytest.mark.slow
def test_a_part_is_learned_in_its_turn_and_before_it_recall_is_at_chance(learned: ResolvedRun) -> None:
    history = [parts_of(epoch.scores) for epoch in load_record(learned.record_path).scores.epochs]
    for part in range(3):
        before, end = history[: 2 * part], history[2 * part + 1]
        assert end[part] >= 0.75
        assert all(recalls[part] <= 0.25 for recalls in before)  # one number of four, where chance is one in 100


@pytest.mark.slow
def test_the_record_has_what_was_learned_and_forgotten_by_the_last_epoch(learned: ResolvedRun) -> None:
    record = load_record(learned.record_path)
    history = [parts_of(epoch.scores) for epoch in record.scores.epochs]
    assert record.selected == record.last
    assert record.selected.epoch == 6
    assert (record.scores.selected_by.name, record.scores.selected_by.lower_is_better) == ("recall", False)
    own = [history[1][0], history[3][1], history[5][2]]
    assert record.selected["recall_when_learned"] == pytest.approx(sum(own) / 3)
    lost = [before - after for before, after in zip(own, history[5], strict=True)]
    assert record.selected["forgetting"] == pytest.approx(sum(lost[:2]) / 2)
    assert record.selected["recall"] == pytest.approx(sum(history[5]) / 3) == record.scores.selection_score
    assert record.data.facts["parts"] == 3
    assert lost[0] > 0.5


@pytest.mark.slow
def test_tables_show_and_compare_read_it(learned: ResolvedRun) -> None:
    record = load_record(learned.record_path)
    table = memorisation.build(select([record]))
    [section] = table.sections
    row = {column.title: entry.mean for column, entry in zip(section.columns, section.lines[0].entries, strict=True)}
    for title, key in (("Recall", "recall"), ("When learned", "recall_when_learned"), ("Forgetting", "forgetting")):
        assert row[title] == f"{100 * (record.selected[key] or 0):.1f}"
        assert float(table.tidy[0][key]) == pytest.approx(record.selected[key], rel=1e-5)
    assert "learned in 3 parts" in section.header["Data"]
    assert section.header["Selection"].startswith("last epoch (one learning rate was tried) by the recall on the train")
    shown = " ".join(f"{name} {text}" for block in blocks(record, learned.record_path) for name, text in block.lines)
    assert f"forgetting {record.selected['forgetting']:.4g}" in shown
    [as_forgetting] = reporting("forgetting", [record])
    assert (as_forgetting.score, as_forgetting.scores.lower_is_better) == (record.selected["forgetting"], True)


def test_a_book_that_is_learned_at_once_has_no_such_scores(make_setup: MakeSetup) -> None:
    record = run(make_setup("once", "method=lora", "task.parts=1", "epochs=1"))
    assert set(record.selected) == {"epoch", "recall", "digit_accuracy", "bits_stored", "loss"}
    assert "parts" not in record.data.facts
    assert [column.title for column in memorisation.build(select([record])).sections[0].columns][:3] == [
        "Trainable", "Recall", "Stored, kbit"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 8], ids=["inside of a part", "between two parts"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(make_setup: MakeSetup, at_step: Any, step: int) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    alone = make_setup(f"alone {step}", *ROSA)
    resolved = make_setup(f"broken {step}", *ROSA, "checkpoint_s=0")
    with pytest.raises(KeyboardInterrupt):
        run(resolved, [at_step(step, interrupt)])
    made = at_step(-1, interrupt)
    assert results(run(resolved, [made])) == results(run(alone))
    assert made.steps == list(range(step, 6 * STEPS))


@pytest.mark.slow
def test_a_pack_learns_the_same_parts(make_setup: MakeSetup) -> None:
    lrs = ("1e-3", "1e-2")
    packed = run_pack([make_setup("packed", *ROSA, f"lr={lr}") for lr in lrs])
    for record, lr in zip(packed, lrs, strict=True):
        assert isinstance(record, RunRecord)
        for one, other in zip(
            record.scores.epochs, run(make_setup("alone", *ROSA, f"lr={lr}")).scores.epochs, strict=True
        ):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
            assert one.scores == pytest.approx(other.scores, rel=1e-4)


@pytest.mark.gpu
def test_captured_steps_give_the_scores_of_plain_ones(make_setup: MakeSetup) -> None:
    def scores(choice: str) -> list[dict[str, float | None]]:
        resolved = make_setup(choice, *ROSA, "device=cuda", "precision=float32", f"cuda_graphs={choice}")
        return [epoch.scores for epoch in run(resolved).scores.epochs]

    for found, expected in zip(scores("always"), scores("never"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
