"""A phone book learned in parts: the laws of its batches, its scores and its settings."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch

from rosa_bench.config.schema import RunConfig
from rosa_bench.metrics.base import Metric
from rosa_bench.optim.schedule import lr_at
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.memorisation.forgotten import forgotten
from rosa_bench.tasks.memorisation.recall import part_recall, scores
from rosa_bench.tasks.memorisation.sequences import NumberBatches, PartsInTurn
from rosa_bench.training.state import Recipe

ROWS, PARTS, EPOCHS, PASSES = 12, 3, 6, 2
TINY = ("task=phonebook", "model=tiny_llama", "device=cpu", "task.pairs=12", "method=lora")


def order(batches: NumberBatches, epoch: int, start: int = 0) -> list[int]:
    return torch.cat([batch["labels"] for batch in batches.epoch(epoch, start=start)]).tolist()


def in_turn(parts: int, epochs: int = EPOCHS, seed: int = 0) -> PartsInTurn:
    tensors = {"labels": torch.arange(ROWS)}
    return PartsInTurn(tensors, parts=parts, epochs=epochs, batch_size=3, seed=seed, passes=PASSES)


def test_parts_partition_the_rows_and_take_turns() -> None:
    batches = in_turn(PARTS)
    assert (len(batches), batches.examples) == (3, 8)
    seen = [order(batches, epoch) for epoch in range(EPOCHS)]
    size = ROWS // PARTS
    for epoch, rows in enumerate(seen):
        part = epoch // (EPOCHS // PARTS)
        for passed in (rows[:size], rows[size:]):
            assert sorted(passed) == list(range(part * size, (part + 1) * size))
    assert sorted(seen[0] + seen[2] + seen[4]) == sorted(PASSES * list(range(ROWS)))
    assert seen[0] != seen[1]
    assert order(batches, 3, start=1) == seen[3][3:]
    assert [order(in_turn(PARTS, seed=1), epoch) for epoch in range(EPOCHS)] != seen


def test_one_part_is_the_whole_book_in_the_order_that_it_always_had() -> None:
    whole = NumberBatches({"labels": torch.arange(ROWS)}, batch_size=3, seed=0, passes=PASSES)
    assert len(in_turn(1)) == len(whole)
    assert [order(in_turn(1), epoch) for epoch in range(EPOCHS)] == [order(whole, epoch) for epoch in range(EPOCHS)]


def test_the_recall_of_all_is_the_mean_of_the_parts() -> None:
    right = torch.tensor([2, 2, 1, 0, 2, 1])  # of 2 digits
    found = scores(1.0, right, digits=2, parts=3)
    assert [found.pop(part_recall(part)) for part in (1, 2, 3)] == [1.0, 0.0, 0.5]
    assert found == scores(1.0, right, digits=2)
    assert found["recall"] == 0.5
    halves = scores(1.0, right, digits=2, parts=2)
    assert [halves[part_recall(part)] for part in (1, 2)] == pytest.approx([2 / 3, 1 / 3])


def test_forgetting_is_what_is_lost_of_all_parts_but_the_last() -> None:
    recalls = [(0.1, 0.0, 0.0), (0.9, 0.0, 0.1), (0.5, 0.4, 0.0), (0.6, 0.7, 0.0), (0.3, 0.2, 0.4), (0.2, 0.8, 0.5)]
    history = [{part_recall(part): value for part, value in enumerate(epoch, 1)} for epoch in recalls]
    found = forgotten(history, parts=3, epochs=6)
    assert found["recall_when_learned"] == pytest.approx(fmean([0.9, 0.7, 0.5]))
    assert found["forgetting"] == pytest.approx(fmean([0.9 - 0.2, 0.7 - 0.8]))
    assert forgotten(history[:5], parts=3, epochs=6) == {}  # the run was ended before its last part was learned
    assert forgotten(history, parts=1, epochs=6) == {}


def test_a_prepared_book_is_scored_by_part_and_shuffled_by_the_runs_seed(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for seed in (0, 1):
        resolved = resolve(compose(*TINY, "task.parts=3", "epochs=6", f"seed={seed}"), {})
        found.append(resolved.config.task.prepare(resolved.context))
    assert {part_recall(part) for part in (1, 2, 3)} <= found[0].select(found[0].model).scores.keys()
    first, second = (torch.cat([batch["input_ids"] for batch in prepared.train.epoch()]) for prepared in found)
    assert not torch.equal(first, second)


def test_a_book_in_one_part_selects_by_the_loss_and_one_in_several_by_its_score(
    compose: Callable[..., RunConfig],
) -> None:
    assert compose(*TINY).task.selects_by == Metric("loss", lower_is_better=True)
    assert compose(*TINY, "task.parts=3", "epochs=6").task.selects_by == Metric("recall", lower_is_better=False)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_every_part_has_the_learning_rates_of_a_run_of_its_own(
    compose: Callable[..., RunConfig], schedule: str
) -> None:
    optimizer = compose(*TINY, f"optimizer.schedule={schedule}").optimizer
    recipe = Recipe(lr=0.5, epochs=6, warmup_steps=3, optimizer=optimizer, accumulate=1, reset="factors", phases=PARTS)
    alone = [0.5 * lr_at(step, 10, 3, schedule) for step in range(10)]
    assert [recipe.lr_at(step, 5) for step in range(30)] == PARTS * alone


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.parts=5",), r"task.pairs=12 cannot be cut into task.parts=5 of one size; use a multiple of 5 pairs"),
        (("task.parts=3", "epochs=7"), r"epochs=7 cannot be shared equally by task.parts=3; use a multiple of 3"),
        (("task.parts=3", "epochs=6", "method=laser"), r"task.parts=3 is for methods that train; use task.parts=1"),
        (("task.parts=0",), r"task.parts=0 is out of range"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    compose: Callable[..., RunConfig], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        compose(*TINY, *overrides)
