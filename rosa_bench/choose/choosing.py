"""The whole of a choice: candidates, measurement, plan, search, recommendation."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from rosa_bench.choose.budget import Budget, Clock
from rosa_bench.choose.candidates import TIME, Untried, candidates
from rosa_bench.choose.measuring import measure
from rosa_bench.choose.plan import Arm, Counting, sized
from rosa_bench.choose.runs import Runs
from rosa_bench.choose.search import Found, search
from rosa_bench.choose.state import Choice, choice_id, choice_path, load_choice, save_choice
from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.deviations import deviations_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.reading.once import rows_read_once
from rosa_bench.runs.resolve import Inputs, ResolvedRun, find_inputs, resolve

log = logging.getLogger(__name__)

MOST_REPORTED = 10_000  # rows that are reported, unless the user limits them otherwise


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    given      settings of the runs in Hydra's grammar: data, model and whatever else
    reference  the method with which the choice is compared; its best arm is always a finalist
    """

    given: Sequence[str]
    minutes: float
    memory_gb: float | None
    methods: Sequence[str]
    ranks: Sequence[int]
    lr_half_decades: Sequence[int]
    seeds: int
    reference: str

    @cached_property
    def keys(self) -> set[str]:
        """The keys of the settings that the user gave."""
        return {argument.partition("=")[0].lstrip("+") for argument in self.given}


@dataclass(frozen=True)
class Chosen:
    """A choice that has ended, for now: what was decided, what was found, and where it is stored."""

    choice: Choice
    found: Found
    budget: Budget
    runs: int
    path: Path


def choose(request: Request, *, clock: Clock = time.monotonic) -> Chosen:
    """Make a choice, or go on with one that was begun. Raises `UserError` before any training if it is not possible."""
    with composing() as composer, rows_read_once():
        return _Choosing(request, composer, clock).run()


class _Choosing:
    def __init__(self, request: Request, composer: Composer, clock: Clock):
        self.request, self.composer = request, composer
        self.budget = Budget(60 * request.minutes, clock=clock)
        self._inputs: Inputs | None = None

    def run(self) -> Chosen:
        request = self.request
        arms, untried = candidates(
            request.given,
            self.composer,
            methods=request.methods,
            ranks=request.ranks,
            lr_half_decades=request.lr_half_decades,
            reference=request.reference,
        )
        log.info("looking for data and weights")
        runs = {arm: self._resolved(config) for arm, config in arms.items()}
        first = next(iter(runs.values()))
        name = choice_id(
            {arm: run.identity for arm, run in runs.items()},
            (request.memory_gb, request.seeds, request.reference),
            task=first.config.task.name,
            model=first.config.model.name,
        )
        path = choice_path(first.results_dir, name)
        choice = load_choice(path)
        if choice is None:
            choice = self._planned(name, runs, untried)
            save_choice(choice, path)
        else:
            log.info("going on with %s, after %.1f minutes", path, choice.spent_s / 60)
            self.budget.spent = choice.spent_s
        return self._searched(choice, path)

    def _searched(self, choice: Choice, path: Path) -> Chosen:
        size = choice.size
        log.info(
            "trying %d combinations on %s train rows, up to %d epochs; the plan is %s",
            len(size.arms), f"{size.rows or choice.rows.train:,}", size.epochs, path,
        )  # fmt: skip
        resolved = cache(lambda arm, seed: self._resolved(self._composed(choice.limits, arm, seed)))  # for every rung
        runs = Runs(choice, self.budget, resolved=resolved, save=lambda: save_choice(choice, path))
        found = search(size, runs, reference=choice.reference)
        choice.spent_s = self.budget.spent_s
        save_choice(choice, path)
        return Chosen(choice, found, self.budget, len(runs.made), path)

    def _planned(self, name: str, runs: dict[Arm, ResolvedRun], untried: list[Untried]) -> Choice:
        """Measure one arm of every kind, and return the plan. Raises `UserError` if nothing fits time and memory."""
        request, config = self.request, next(iter(runs.values())).config
        costs, rows, about, unfit = measure(runs, self.budget, memory_gb=request.memory_gb)
        limits, refused = [], config.task.refused
        if config.limit_eval is None and rows.reported > MOST_REPORTED and "limit_eval" not in refused:
            limits.append(f"limit_eval={MOST_REPORTED}")
            rows = rows.limited(reported=MOST_REPORTED)
        rows = rows.limited(train=config.limit_train, reported=config.limit_eval)
        kept = [arm for arm in runs if arm.kind in costs]
        size = sized(
            kept,
            Counting(costs, rows, request.reference),
            budget_s=self.budget.seconds - self.budget.spent_s,
            epochs=config.epochs,
            seeds=request.seeds,
            fixed_epochs="epochs" in request.keys,
            fixed_rows="limit_train" in request.keys or "limit_train" in refused,
        )
        if size.epochs != config.epochs:
            limits.append(f"epochs={size.epochs}")
        if size.rows is not None:
            limits.append(f"limit_train={size.rows}")
        late = [Untried(str(arm), TIME) for arm in kept if arm not in size.arms]
        return Choice(
            id=name, given=list(request.given), limits=limits, size=size, rows=rows, about=about, costs=costs,
            untried=[*untried, *unfit, *late], reference=request.reference, spent_s=self.budget.spent_s,
        )  # fmt: skip

    def _composed(self, limits: Sequence[str], arm: Arm, seed: int) -> RunConfig:
        return parse(self.composer.compose((*self.request.given, *limits, *arm.overrides, f"seed={seed}")))

    def _resolved(self, config: RunConfig) -> ResolvedRun:
        """Return the run of some settings. The data and weights are found once, as all runs share them."""
        if self._inputs is None:
            self._inputs = find_inputs(config)
        return resolve(config, deviations_of(config), inputs=self._inputs, own_gpu=True)
