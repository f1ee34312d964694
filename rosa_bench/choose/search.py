"""The search of a choice: which runs are made, in which order. It knows neither time nor training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rosa_bench.choose.halving import Score, finalists, promoted, ranked, rungs
from rosa_bench.choose.plan import Arm, Size
from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import RunRecord


class Runner(Protocol):
    """Makes runs, up to some epoch."""

    def reach(self, arm: Arm, *, seed: int, epochs: int, keep: bool) -> RunRecord | None:
        """Continue a run until it has so many epochs, and return its record. None if the time is too short for that.

        With ``keep``, enough time for one finalist must be left as well.
        """
        ...

    def drop(self, arm: Arm) -> None:
        """Free what is kept of an arm's first run to continue it, because it never will be."""
        ...


@dataclass
class Found:
    """What a search has found.

    rungs    the score of every arm after so many epochs, by epochs; unknown if a run failed
    finals   the completed runs of the finalists by seed
    is_done  whether nothing was left out for lack of time
    selects_lowest  whether the rows that select give an error; scores are then errors with the sign changed
    """

    rungs: dict[int, dict[Arm, Score]] = field(default_factory=dict)
    finals: dict[Arm, dict[int, RunRecord]] = field(default_factory=dict)
    is_done: bool = True
    selects_lowest: bool = False

    @property
    def latest(self) -> dict[Arm, tuple[int, Score]]:
        """The last score of every arm, and after how many epochs."""
        return {arm: (epochs, score) for epochs, scores in self.rungs.items() for arm, score in scores.items()}

    @property
    def leader(self) -> Arm | None:
        """The arm that was best where most epochs were made, of those that learned anything; None if there is none."""
        learned = {arm for arm, (_, score) in self.latest.items() if not score.collapsed}
        for scores in reversed(self.rungs.values()):
            if order := [arm for arm in ranked(scores) if arm in learned]:
                return order[0]
        return None


def search(size: Size, runner: Runner, *, reference: str) -> Found:
    """Run the arms by successive halving, then the finalists with all seeds.

    The best arm of the method ``reference`` is a finalist too. Whatever the time is too short for is left out.
    """
    found, alive = Found(), list(size.arms)
    *early, full = rungs(size.epochs)
    compared = early or [full]
    for epochs in compared:
        found.rungs[epochs] = {}
        for arm in alive:
            record = runner.reach(arm, seed=0, epochs=epochs, keep=bool(early))
            if record is None:
                found.is_done = False
            else:
                found.rungs[epochs][arm] = score_at(record, epochs)
                found.selects_lowest = record.scores.selected_by.lower_is_better
        if not found.rungs[epochs]:
            del found.rungs[epochs]
            break
        last = epochs == compared[-1]
        scores = found.rungs[epochs]
        alive = finalists(scores, kind=lambda arm: arm.kind) if last else promoted(scores)
        for arm in scores.keys() - set(with_reference(alive, found.latest, reference)):
            runner.drop(arm)
    for seed in range(size.seeds):
        for arm in with_reference(alive, found.latest, reference):
            record = runner.reach(arm, seed=seed, epochs=full, keep=False)
            if record is None:
                found.is_done = False
            elif record.status == "completed":
                found.finals.setdefault(arm, {})[seed] = record
    return found


def with_reference(alive: list[Arm], latest: Mapping[Arm, tuple[int, Score]], reference: str) -> list[Arm]:
    """Return the finalists, and the best arm of the method ``reference`` unless they have one."""
    of_it = [arm for arm, (_, score) in latest.items() if arm.method == reference and score.is_known]
    if not of_it or any(arm.method == reference for arm in alive):
        return alive
    return [*alive, max(of_it, key=lambda arm: (latest[arm][0], latest[arm][1].merit))]


def score_at(record: RunRecord, epochs: int) -> Score:
    """Return the best score of the first epochs on the rows that select. It is unknown if the run failed."""
    criterion = record.scores.selected_by
    sign = -1 if criterion.lower_is_better else 1
    unknown = Score(math.nan)
    if record.status == "failed":
        return unknown
    found = [
        Score(
            sign * value,
            math.inf if (loss := epoch.scores.get("loss")) is None else loss,
            bool(Result(epoch.scores).has_collapsed),
        )
        for epoch in record.scores.epochs[:epochs]
        if (value := epoch.scores.get(criterion.name)) is not None
    ]
    return max(found, key=lambda score: score.merit, default=unknown)
