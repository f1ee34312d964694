"""Read records as if another of their scores were the reported one."""

from collections.abc import Sequence

import msgspec

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.record import RunRecord
from rosa_bench.system.errors import UserError, did_you_mean

FORGETTING = "forgetting"
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_character", "mse", FORGETTING)


def reporting(metric: str, runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return copies of the runs that have the score ``metric``, in which it is the reported one.

    ``forgetting`` is also the rise of the loss on another task's text. The learning rate is still chosen by the score
    that selected the epoch. Raises `UserError` if no run has such a score.
    """
    found = [(run, _scores(run.selected, run), _scores(run.last, run)) for run in runs]
    known = sorted({name for _, *results in found for result in results for name in result if name != "epoch"})
    if metric not in known:
        raise UserError(f"no run has the score {metric}{did_you_mean(metric, known)}; found: {', '.join(known)}")
    return [
        msgspec.structs.replace(
            run,
            scores=msgspec.structs.replace(
                run.scores, reported=metric, lower_is_better=metric in LOWER_IS_BETTER, selected=selected, last=last
            ),
        )
        for run, selected, last in found
        if metric in selected and metric in last
    ]


def _scores(result: Result, run: RunRecord) -> Result:
    if not run.forgetting or not result:
        return result
    loss = run.forgetting.selected if result is run.selected else run.forgetting.last
    before = run.forgetting.before
    return Result({**result, FORGETTING: None if loss is None or before is None else loss - before})
