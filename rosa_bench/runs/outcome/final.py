"""The results that a run reports: those of its last epoch and of the selected one."""

import copy
from typing import NamedTuple

from rosa_bench.adapters.lora import PlainWeights, known_updates
from rosa_bench.layers.exact import Update
from rosa_bench.records.parts.measured import Forgetting
from rosa_bench.runs.outcome.forgetting import Measurement
from rosa_bench.runs.outcome.predicted import predictions_of
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.tasks.prepared import PreparedTask, Result
from rosa_bench.training.observers.selection import BestEpoch
from rosa_bench.training.state import Epoch


class Final(NamedTuple):
    """Results of the last and of the selected epoch, and their losses on another task's text if requested.

    factors  the selected epoch's updates that its layers know as factors, by layer
    """

    last: Result
    selected: Result
    forgetting: Forgetting | None
    factors: dict[str, Update]


def final_results(
    resolved: ResolvedRun,
    problem: PreparedTask,
    best: BestEpoch,
    history: list[Epoch],
    forgetting: Measurement | None = None,
    *,
    plain: PlainWeights | None = None,
) -> Final:
    """Return the results of the last and of the selected epoch. Leaves the model merged, with the selected weights.

    If the reported rows differ from the rows used for selection, they are scored here. Otherwise their scores are
    already known.
    """
    model, method = problem.model, resolved.config.method
    evaluations = [evaluate for evaluate in (problem.report, forgetting and forgetting.evaluate) if evaluate]
    last = None
    if evaluations and best.number < len(history) - 1:
        copied = copy.deepcopy(model)  # merging cannot be undone
        method.merge(copied)
        last = [evaluate(copied) for evaluate in evaluations]
        del copied
    best.restore()
    factors = {} if plain is None else known_updates(model, plain)
    method.merge(model)
    selected = [evaluate(model) for evaluate in evaluations]
    last = last or selected
    forgotten = None
    if forgetting is not None:
        forgotten = forgetting.after(selected=selected[-1].scores["loss"], last=last[-1].scores["loss"])
    if problem.report is not None:
        return Final(last[0], selected[0], forgotten, factors)
    epoch = history[best.number]
    known = Result(epoch.scores, predictions=predictions_of(best.predicted, epoch))
    return Final(Result(history[-1].scores), known, forgotten, factors)
