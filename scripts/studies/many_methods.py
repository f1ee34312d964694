"""Whether variances that methods share would make better comparisons of many methods with few seeds.

    python -m scripts.studies.many_methods

Compares 36 methods with LoRA over the tasks of the table of methods, on the seeds of each task that all methods have.
Counts how often a test finds a difference that is not there, and how often one that is. "today" is the test of
`rosa-bench compare`, paired over seeds. "Welch" is not paired. All others moderate the variance of a cell by those of
all methods on its task, with the priors `moments`, `robust` or `uncertain`. They use Satterthwaite's degrees of
freedom, or the exact distribution for that prior ("Behrens-Fisher").

Rates without leads are in multiples of the level: 1 is exact. The level 0.0014 is that of the smallest p of 36 under
Holm's correction. "any star" is the share of tables with a significant difference after it; up to 0.05 is right.
"finds 2" is the share of true leads of 2 points that are significant after it, if 6 of the 36 methods lead by that.
Source of figures in docs/explanations.md. About nine minutes on one CPU core.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaln, digamma, fdtrc, fdtri, ndtr, polygamma, stdtr

from rosa_bench import api
from rosa_bench.report.cells.differences import holm
from rosa_bench.report.cells.selection.comparable import method_comparisons
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.statistics import satterthwaite
from scripts.arguments import start
from scripts.reporting import Figures, write_report

LEVELS = (0.05, 0.05 / 36)
METHODS, LEADERS = 37, 6
LEADS = (1.0, 2.0, 3.0)  # points
DRAWS, BATCH = 3000, 500
REPEATS = 100
MIXED = 256  # priors and variances drawn for one p of Behrens and Fisher's
DFS = np.geomspace(0.05, 1e6, 4000)  # of a prior; the largest stands for infinitely many
UNSTABLE = 8.0  # points: a cell with a larger standard deviation has a run that failed to learn
COLLAPSED = 0.03  # share of collapsed runs in the real table
DROPS = (45.0, 75.0, 15.0, 14.0)  # points that a collapsed run loses on CoLA, STS-B, MRPC and RTE
WINSORISED = (0.05, 0.9)  # quantiles
EACH = slice(None)
SIDES = {"ahead": 1, "behind": -1}

Array = NDArray[np.floating]
Scores = list[Array]  # of each task: (draws, methods, seeds), LoRA first
Prior = tuple[
    Array, Array
]  # degrees of freedom and scale of a scaled inverse chi-square: (draws, methods or 1, 1 or `MIXED`)
Terms = list[tuple[Array, Array]]  # squared standard errors, degrees of freedom: (draws, methods - 1, 1 or `MIXED`)
Test = Callable[[Array], Array]  # from differences to p, (draws, methods - 1)


def main() -> None:
    """Draw, count, print, and write the figures to results/benchmarks."""
    (names, real), rng = real_table(), np.random.default_rng(0)
    found = {f"the real table: {name}": figures for name, figures in stars(names, real, rng).items()}
    for title, scene in scenes(real).items():
        named = rates(scene, [one.shape[-1] for one in real], rng, draws=DRAWS)
        found |= {f"{title}: {name}": figures for name, figures in named.items()}
    write_report("many_methods", found, what=__doc__, device=torch.device("cpu"))


def real_table() -> tuple[list[str], Scores]:
    """Return the methods but LoRA of the largest table in results, and all scores times 100, as one draw.

    The seeds of a task are those that all methods have.
    """
    one = method_comparisons(select(api.load_records("results")))[0]
    lora, *others = sorted(one.rows, key=lambda row: row.variant.method != "lora")
    found = []
    for task in one.tasks:
        cells = [row.cells[task].by_seed for row in (lora, *others)]
        shared = sorted(set.intersection(*map(set, cells)))
        found.append(100 * np.array([[[by_seed[seed] for seed in shared] for by_seed in cells]]))
    return [row.name for row in others], found


@dataclass(frozen=True, kw_only=True)
class Scene:
    """How the scores of equally good methods vary.

    spreads   draws the standard deviations of a seed's score, (tasks, draws, methods)
    tails     degrees of freedom of Student's t; None for normal scores
    collapsed share of runs that collapse
    tried     number of equally good learning rates, of which held-out rows choose one
    counted   how many differences from LoRA have their rates counted
    """

    spreads: Callable[[np.random.Generator, int], Array]
    tails: float | None = None
    collapsed: float = 0.0
    tried: int = 1
    counted: int = METHODS - 1

    def draw(self, counts: Sequence[int], rng: np.random.Generator, draws: int) -> Scores:
        """Draw scores with ``counts`` seeds of each task."""
        spreads = self.spreads(rng, draws)
        return [
            self._task(spread[..., None], count, drop, rng)
            for spread, count, drop in zip(spreads, counts, DROPS[: len(counts)], strict=True)
        ]

    def _task(self, spread: Array, count: int, drop: float, rng: np.random.Generator) -> Array:
        shape = (self.tried, *spread.shape[:-1], count)
        normal = rng.standard_normal(shape)
        noise = normal if self.tails is None else normal / np.sqrt(rng.chisquare(self.tails, shape) / (self.tails - 2))
        scores = spread * noise - drop * (rng.random(shape) < self.collapsed)
        held_out = np.median(scores + spread * rng.standard_normal(shape), axis=-1, keepdims=True)
        return np.take_along_axis(scores, held_out.argmax(0)[None], 0)[0]


def scenes(real: Scores) -> dict[str, Scene]:
    """Return the ways in which scores may vary: first like the real ones, then against the moderated tests."""
    spreads = np.array([one[0].std(-1, ddof=1) for one in real])  # (tasks, methods)
    stable = spreads[:, spreads.max(0) < UNSTABLE]
    priors = [moments(one.var(-1, ddof=1), one.shape[-1] - 1) for one in real]

    def resampled(pool: Array) -> Callable[[np.random.Generator, int], Array]:
        return lambda rng, draws: pool[:, rng.integers(0, pool.shape[-1], (draws, METHODS))]

    def fitted(rng: np.random.Generator, draws: int) -> Array:
        drawn = [scale[0] * df[0] / rng.chisquare(df[0], (draws, METHODS)) for df, scale in priors]
        return np.sqrt(drawn).clip(max=spreads.max())

    def alike(*tenfold: int | slice) -> Callable[[np.random.Generator, int], Array]:
        one = np.repeat(pooled(real)[:, None, None], METHODS, axis=2)
        if tenfold:  # task, draw, method
            one[tenfold] *= 10
        return lambda _, draws: np.repeat(one, draws, axis=1)

    return {
        "spreads of the real cells": Scene(spreads=resampled(spreads)),
        "spreads of the real stable methods": Scene(spreads=resampled(stable)),
        "spreads from the prior fitted to the real cells": Scene(spreads=fitted),
        "all alike": Scene(spreads=alike()),
        "all alike, runs collapse": Scene(spreads=alike(), collapsed=COLLAPSED),
        "all alike, best of three rates": Scene(spreads=alike(), tried=3),
        "all alike, heavy tails": Scene(spreads=alike(), tails=3.0),
        "one task varies 10 times as much": Scene(spreads=alike(0)),
        "one method varies 10 times as much, its own rates": Scene(spreads=alike(EACH, 0, 1), counted=1),
        "LoRA varies 10 times as much": Scene(spreads=alike(EACH, 0, 0)),
    }


def pooled(real: Scores) -> Array:
    """Return the standard deviation in each task, pooled over the methods that are stable there."""
    variances = [one[0].var(-1, ddof=1) for one in real]
    return np.array([np.sqrt(some[some < UNSTABLE**2].mean()) for some in variances])


def rates(scene: Scene, counts: Sequence[int], rng: np.random.Generator, *, draws: int) -> dict[str, Figures]:
    """Return how often each test finds a difference without leads, and how many leads it finds."""
    names = [*(f"at {level:.2g}" for level in LEVELS), "any star", *(f"finds {lead:g}" for lead in LEADS)]
    leads = [lead * (np.arange(METHODS - 1) < LEADERS) for lead in LEADS]
    found: dict[str, list[list[float]]] = {}
    for _ in range(draws // BATCH):
        scores = scene.draw(counts, rng, BATCH)
        mean = differences(scores)
        for name, test in tests(scores, rng).items():
            p = test(mean)
            excess = [(p[:, : scene.counted] < level).mean() / level for level in LEVELS]
            power = [
                (significant(test(one)) & (one > 0))[:, :LEADERS].mean() for one in (mean + lead for lead in leads)
            ]
            found.setdefault(name, []).append([*excess, significant(p).any(-1).mean(), *power])
    return {name: dict(zip(names, np.mean(some, axis=0).tolist(), strict=True)) for name, some in found.items()}


def stars(names: Sequence[str], real: Scores, rng: np.random.Generator) -> dict[str, Figures]:
    """Return how many methods are significantly ahead of LoRA and behind it by each test, and p of all of these.

    All p are after Holm's correction. Those that are drawn are means over `REPEATS` times.
    """
    mean = differences(real)[0]
    repeated = tests([one.repeat(REPEATS, axis=0) for one in real], rng)
    p = {name: np.array(holm(test(mean).mean(0).tolist()), dtype=float) for name, test in repeated.items()}
    named = np.flatnonzero(np.min(list(p.values()), axis=0) < LEVELS[0]).tolist()
    found = {}
    for name, some in p.items():
        counts = {side: float((some[sign * mean > 0] < LEVELS[0]).sum()) for side, sign in SIDES.items()}
        found[name] = {**counts, **{f"p of {names[place]}": float(some[place]) for place in named}}
    return found


def differences(scores: Scores) -> Array:
    """Return each method's mean over tasks minus LoRA's, (draws, methods - 1)."""
    return np.mean([one[:, 1:].mean(-1) - one[:, :1].mean(-1) for one in scores], axis=0)


def significant(p: Array) -> NDArray[np.bool_]:
    """Return which p are significant after Holm's correction over the last axis."""
    return np.array([holm(family) for family in p.tolist()], dtype=float) < LEVELS[0]


def tests(scores: Scores, rng: np.random.Generator) -> dict[str, Test]:
    """Return the tests of all methods against LoRA."""
    paired = [((one[:, 1:] - one[:, :1]).var(-1, ddof=1, keepdims=True), one.shape[-1]) for one in scores]
    terms = [(variances / count, np.array(count - 1)) for variances, count in paired]
    found = {"today": by_satterthwaite(terms, len(scores)), "Welch": by_satterthwaite(unpaired(scores), len(scores))}
    for name, prior in {"moderated": moments, "robust": robust}.items():
        terms = unpaired(scores, prior)
        found[name] = by_satterthwaite(terms, len(scores))
        found[f"{name}, Behrens-Fisher"] = by_mixture(terms, len(scores), rng)
    terms = unpaired(scores, lambda variances, df: uncertain(variances, df, rng))
    return {**found, "uncertain prior, Behrens-Fisher": by_mixture(terms, len(scores), rng)}


def unpaired(scores: Scores, prior: Callable[[Array, int], Prior] | None = None) -> Terms:
    """Return two terms for each task: each method's and LoRA's, moderated if there is a prior.

    Source of the moderated variance: Smyth, Statistical Applications in Genetics and Molecular Biology 3 (2004). Its
    degrees of freedom are at most those of all cells together.
    """
    terms = []
    for one in scores:
        variances, df = one.var(-1, ddof=1, keepdims=True), one.shape[-1] - 1
        prior_df, scale = prior(variances[..., 0], df) if prior else (0.0, 0.0)
        moderated = (prior_df * scale + df * variances) / (prior_df + df) / one.shape[-1]
        total = np.broadcast_to(prior_df + df, moderated.shape).clip(max=df * one.shape[1])
        terms += [(moderated[:, 1:], total[:, 1:]), (moderated[:, :1], total[:, :1])]
    return terms


def by_satterthwaite(terms: Terms, tasks: int) -> Test:
    """Return the two-sided test of a mean over tasks by Student's t with Satterthwaite's degrees of freedom."""
    squares: list[Any] = [square for square, _ in terms]
    counts: list[Any] = [df + 1 for _, df in terms]
    df, error = satterthwaite(squares, counts), np.sqrt(sum(squares)) / tasks
    return lambda mean: 2 * stdtr(df, -np.abs(mean)[..., None] / error).mean(-1)


def by_mixture(terms: Terms, tasks: int, rng: np.random.Generator) -> Test:
    """Return the two-sided test of a mean over tasks by the distribution of a sum of Student's t, one for each term.

    This is Behrens and Fisher's distribution: a mixture of normal ones, over variances that are drawn.
    """
    total: Any = 0.0
    for square, df in terms:
        halves = np.broadcast_to(df / 2, (*square.shape[:2], MIXED))
        total = total + square * df / 2 / rng.standard_gamma(halves, dtype=np.float32).clip(np.finfo(np.float32).tiny)
    error = np.sqrt(total) / tasks
    return lambda mean: 2 * ndtr(-np.abs(mean)[..., None] / error).mean(-1)


def moments(variances: Array, df: int) -> Prior:
    """Fit a prior to variances (draws, methods) by the mean and the variance of their logarithms.

    Source: Smyth (2004). Logarithms of variances near 0 are cut, because one of them would decide the fit.
    """
    logs = _logs(variances)
    excess = logs.var(-1, ddof=1, keepdims=True) - polygamma(1, df / 2)
    prior_df = np.exp(np.interp(-excess, -polygamma(1, DFS / 2), np.log(DFS)))
    centre = logs.mean(-1, keepdims=True) - digamma(df / 2) + np.log(df / 2)
    return prior_df[..., None], np.exp(centre + digamma(prior_df / 2) - np.log(prior_df / 2))[..., None]


def robust(variances: Array, df: int) -> Prior:
    """Fit a prior like `moments`, but not to the most extreme variances, whose own prior has fewer degrees of freedom.

    Source: Phipson et al., Annals of Applied Statistics 10 (2016): logarithms are cut at the 5 % and 90 % quantiles.
    A variance is an outlier to the degree that it is less probable than its rank says. We do not refine the outliers'
    degrees of freedom a second time.
    """
    logs, count = _logs(variances), variances.shape[-1]
    low, high = np.quantile(logs, WINSORISED, axis=-1, keepdims=True)
    cut = np.clip(logs, low, high)
    dfs, centres, widths = _winsorised(df)
    log_df = np.interp(-cut.var(-1, ddof=1, keepdims=True), -widths, np.log(dfs))
    prior_df = np.exp(log_df)
    scale = np.exp(cut.mean(-1, keepdims=True) - np.interp(log_df, np.log(dfs), centres))

    tails = fdtrc(df, prior_df, variances / scale)
    order = np.argsort(tails, axis=-1)
    ordered = np.take_along_axis(tails, order, -1)
    belongs = np.maximum.accumulate(np.minimum(ordered / ((np.arange(count) + 0.5) / count), 1), axis=-1)
    outliers_df = prior_df * np.log(0.5) / np.log(ordered[..., :1].clip(1e-300, 0.5))
    mixed = belongs * prior_df + (1 - belongs) * outliers_df
    return np.take_along_axis(mixed, np.argsort(order, axis=-1), -1)[..., None], scale[..., None]


def uncertain(variances: Array, df: int, rng: np.random.Generator) -> Prior:
    """Draw priors (draws, 1, `MIXED`) from their posterior, if all logarithms on a grid are equally probable before."""
    dfs, scales = np.geomspace(0.5, 256, 19), np.geomspace(0.1, 20, 33)
    typical = np.exp(np.median(_logs(variances), axis=-1))
    relative = np.exp(_logs(variances)) / typical[:, None]
    total = np.stack([_log_likelihood(relative, df, own, scale) for own in dfs for scale in scales], axis=-1)
    chances = np.exp(total - total.max(-1, keepdims=True)).cumsum(-1)
    steps = rng.permuted(np.tile((np.arange(MIXED) + 0.5) / MIXED, (len(total), 1)), axis=-1)
    places = np.array([np.searchsorted(row / row[-1], step) for row, step in zip(chances, steps, strict=True)])
    own, scale = np.divmod(places, len(scales))
    return dfs[own][:, None], (scales[scale] * typical[:, None])[:, None]


@cache
def _winsorised(df: int) -> tuple[Array, Array, Array]:
    """Return degrees of freedom of a prior of scale 1, and the mean and variance of the cut logarithms under each."""
    dfs, chances = np.geomspace(0.2, 1e4, 120), (np.arange(1000) + 0.5) / 1000
    logs = np.log(fdtri(df, dfs[:, None], chances.clip(*WINSORISED)))
    return dfs, logs.mean(-1), logs.var(-1)


def _logs(variances: Array) -> Array:
    return np.log(np.maximum(variances, 1e-5 * np.median(variances, axis=-1, keepdims=True)))


def _log_likelihood(variances: Array, df: int, prior_df: float, scale: float) -> Array:
    """Return the log-likelihood (draws,) of a prior, by the distribution F of variances (draws, methods) of scale 1."""
    ratios = variances / scale
    constant = df / 2 * np.log(df / prior_df) - betaln(df / 2, prior_df / 2) - np.log(scale)
    powers = (df / 2 - 1) * np.log(ratios) - (df + prior_df) / 2 * np.log1p(df * ratios / prior_df)
    return (constant + powers).sum(-1)


if __name__ == "__main__":
    start(main, __doc__)
