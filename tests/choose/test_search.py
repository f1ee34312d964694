"""The search, with made-up runs and a clock that is turned by hand."""

import math
from collections.abc import Callable

import pytest

from rosa_bench.choose.budget import Budget
from rosa_bench.choose.halving import Score, rungs
from rosa_bench.choose.plan import Arm, Size
from rosa_bench.choose.search import Found, score_at, search, with_reference
from rosa_bench.records.parts.measured import EpochScores
from rosa_bench.records.record import RunRecord

MakeRecord = Callable[..., RunRecord]
ARMS = [Arm(method, lr, rank) for lr in (2e-3, 6e-4, 6e-3) for method, rank in [("lora", 8), ("ft", None), ("rosa", 8)]]
# How good every arm is, by its place in ARMS. Full fine-tuning never is among the best third.
GOOD = [0.80, 0.30, 0.70, 0.79, 0.20, 0.60, 0.10, 0.25, 0.50]


class World:
    """Runs that take ``epoch_s`` for every epoch, on a clock of their own; what was dropped is not continued."""

    def __init__(self, make_record: MakeRecord, seconds: float = 1e9, *, epoch_s: float = 1.0, stop_after: int = 10**9):
        self.make_record, self.epoch_s, self.now, self.stop_after = make_record, epoch_s, 0.0, stop_after
        self.budget = Budget(seconds, clock=lambda: self.now)
        self.done: dict[tuple[Arm, int], int] = {}
        self.dropped: set[Arm] = set()
        self.started: list[tuple[str, int, int]] = []

    def drop(self, arm: Arm) -> None:
        self.dropped.add(arm)

    def reach(self, arm: Arm, *, seed: int, epochs: int, keep: bool) -> RunRecord | None:  # noqa: ARG002
        before = self.done.get((arm, seed), 0)
        if before < epochs:
            assert seed or arm not in self.dropped
            if not self.budget.allows((epochs - before) * self.epoch_s):
                return None
            if len(self.started) >= self.stop_after:
                raise KeyboardInterrupt
            self.started.append((str(arm), seed, epochs))
            self.now += (epochs - before) * self.epoch_s
            self.done[arm, seed] = epochs
        return self.record(arm, seed, self.done[arm, seed])

    def record(self, arm: Arm, seed: int, epochs: int) -> RunRecord:
        value = GOOD[ARMS.index(arm)] + 0.01 * seed
        record = self.make_record(f"method={arm.method}", f"lr={arm.lr}", f"seed={seed}", dev=value, held_out=value)
        record.scores.selected_by.name = "matthews_correlation"
        record.scores.epochs = [
            EpochScores(train_loss=1.0, scores={"matthews_correlation": value, "loss": 1.0})
        ] * epochs
        record.status = "completed" if epochs == 10 else "interrupted"
        return record


def size(seeds: int = 3) -> Size:
    return Size(ARMS, epochs=10, seeds=seeds, rows=None, seconds=0)


def ids(found: Found) -> dict[str, list[int]]:
    return {str(arm): sorted(runs) for arm, runs in found.finals.items()}


def test_the_best_arms_of_two_methods_and_the_reference_are_finalists_with_all_seeds(make_record: MakeRecord) -> None:
    world = World(make_record)
    found = search(size(), world, reference="ft")
    assert ids(found) == {
        "lora rank 8 lr 0.002": [0, 1, 2],
        "rosa rank 8 lr 0.002": [0, 1, 2],
        "ft lr 0.002": [0, 1, 2],
    }
    assert found.is_done
    assert [len(scores) for scores in found.rungs.values()] == [9, 3]  # and then the finals
    assert list(found.rungs) == rungs(10)[:-1]
    assert found.leader == ARMS[0]
    epochs = 9 * 1 + 3 * 2 + 2 * 7 + 9 + 3 * 2 * 10  # nothing is trained twice
    assert world.now == epochs
    assert world.dropped == set(ARMS) - found.finals.keys()


def test_a_search_that_is_stopped_and_continued_makes_the_same_runs(make_record: MakeRecord) -> None:
    alone = World(make_record)
    expected = search(size(), alone, reference="ft")
    for stop in (0, 5, 11, 14, len(alone.started) - 1):
        world = World(make_record, stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            search(size(), world, reference="ft")
        world.stop_after = 10**9
        found = search(size(), world, reference="ft")
        assert world.started == alone.started
        assert ids(found) == ids(expected)
        assert found.rungs == expected.rungs


@pytest.mark.parametrize("seconds", [0, 0.5, 4, 9, 14, 30, 60, 89])
def test_nothing_starts_that_cannot_end_and_what_is_left_out_is_said(make_record: MakeRecord, seconds: float) -> None:
    world = World(make_record, seconds)
    found = search(size(), world, reference="ft")
    assert world.now <= seconds
    assert not found.is_done
    assert (found.leader is None) is (seconds < 1)


def test_an_arm_that_failed_is_never_promoted(make_record: MakeRecord) -> None:
    class Failing(World):
        def record(self, arm: Arm, seed: int, epochs: int) -> RunRecord:
            record = super().record(arm, seed, epochs)
            if arm == ARMS[0]:
                record.status = "failed"
            return record

    found = search(size(), Failing(make_record), reference="ft")
    assert ARMS[0] not in found.finals
    assert found.leader == ARMS[3]
    assert set(found.rungs[1]) == set(ARMS)


def test_the_leader_is_the_best_after_most_epochs_of_those_that_learned() -> None:
    first, second, third, *_ = ARMS
    rungs = {
        1: {first: Score(0.9), second: Score(0.8), third: Score(0.2)},
        3: {first: Score(0.7, collapsed=True), second: Score(0.5), third: Score(0.6)},
    }
    assert Found(rungs=rungs).leader == third
    assert Found(rungs={1: rungs[1], 3: {first: rungs[3][first]}}).leader == second
    assert Found(rungs={3: {first: rungs[3][first]}}).leader is None


def test_early_runs_leave_time_for_a_finalist_and_finals_do_not(make_record: MakeRecord) -> None:
    class Noting(World):
        def reach(self, arm: Arm, *, seed: int, epochs: int, keep: bool) -> RunRecord | None:
            kept.add((epochs, keep))
            return super().reach(arm, seed=seed, epochs=epochs, keep=keep)

    kept: set[tuple[int, bool]] = set()
    found = search(size(), Noting(make_record), reference="ft")
    assert kept == {(1, True), (3, True), (10, False)}
    assert not found.selects_lowest


def test_an_early_run_that_was_left_out_is_said_though_all_finals_were_made(make_record: MakeRecord) -> None:
    class Refusing(World):
        def reach(self, arm: Arm, *, seed: int, epochs: int, keep: bool) -> RunRecord | None:
            return None if arm == ARMS[6] else super().reach(arm, seed=seed, epochs=epochs, keep=keep)

    found = search(size(), Refusing(make_record), reference="ft")
    assert all(len(runs) == 3 for runs in found.finals.values())
    assert not found.is_done


def test_a_final_that_failed_is_not_among_the_finals_and_its_criterion_is_known(make_record: MakeRecord) -> None:
    class Failing(World):
        def record(self, arm: Arm, seed: int, epochs: int) -> RunRecord:
            record = super().record(arm, seed, epochs)
            record.scores.selected_by.lower_is_better = True
            if seed == 1:
                record.status = "failed"
            return record

    found = search(size(), Failing(make_record), reference="ft")
    assert {tuple(runs) for runs in found.finals.values()} == {(0, 2)}
    assert found.selects_lowest


def test_the_reference_is_its_best_arm_after_most_epochs() -> None:
    other, few, many, most = Arm("lora", 1e-3, 8), Arm("ft", 1e-5, None), Arm("ft", 1e-4, None), Arm("ft", 1e-3, None)
    latest = {other: (3, Score(0.9)), few: (1, Score(0.8)), many: (3, Score(0.5)), most: (3, Score(0.6))}
    assert with_reference([other], latest, "ft") == [other, most]
    assert with_reference([many, other], latest, "ft") == [many, other]
    unknown = {one: (1, Score(math.nan)) for one in (few, many)}
    assert with_reference([other], {other: latest[other], **unknown}, "ft") == [other]


def test_of_epochs_with_equal_scores_the_one_with_the_lower_loss_counts(make_record: MakeRecord) -> None:
    record = make_record("task=cola", held_out=0.5)
    record.scores.selected_by.name = "matthews_correlation"
    losses = ({}, {"loss": 0.9}, {"loss": 0.4}, {"loss": 0.7})
    record.scores.epochs = [EpochScores(train_loss=1.0, scores={"matthews_correlation": 0.5, **one}) for one in losses]
    assert [score_at(record, epochs).loss for epochs in (1, 2, 3, 4)] == [math.inf, 0.9, 0.4, 0.4]


def test_a_score_is_the_best_of_the_first_epochs_and_a_lower_error_is_higher(make_record: MakeRecord) -> None:
    record = make_record("task=cola", dev=0.5, held_out=0.5)
    record.scores.selected_by.name = "loss"
    record.scores.selected_by.lower_is_better = True
    record.scores.epochs = [EpochScores(train_loss=1.0, scores={"loss": loss}) for loss in (0.9, None, 0.4)]
    assert score_at(record, 2) == Score(-0.9, 0.9)
    assert score_at(record, 3) == Score(-0.4, 0.4)
    assert not score_at(record, 0).is_known
    assert not score_at(record, 3).collapsed
    record.scores.epochs[2].scores["spread"] = 0.001
    assert score_at(record, 3).collapsed and not score_at(record, 2).collapsed
