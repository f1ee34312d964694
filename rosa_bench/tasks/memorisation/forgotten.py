"""Score what is forgotten of the parts of a phone book that are learned one after another."""

from collections.abc import Sequence
from statistics import fmean

from rosa_bench.tasks.memorisation.recall import part_recall
from rosa_bench.training.state import Scores


def forgotten(history: Sequence[Scores], *, parts: int, epochs: int) -> Scores:
    """Return what the scores of all ``epochs`` say about the ``parts``. Empty for one part, or if some are not learned.

    recall_when_learned  recall of each part at the end of its own epochs, mean over the parts (learning accuracy)
    forgetting           that recall minus the recall of the same part at the end of the run, mean over the parts but
                         the last. It is below 0 if later parts improve earlier ones

    Source: Lopez-Paz and Ranzato, arXiv 1706.08840, whose backward transfer is minus ``forgetting``. The average
    accuracy is ``recall``, because parts have one size.
    """
    if parts == 1 or len(history) < epochs:
        return {}
    names = [part_recall(number) for number in range(1, parts + 1)]
    learned = [history[number * epochs // parts - 1][name] for number, name in enumerate(names, 1)]
    lost = [before - history[-1][name] for before, name in zip(learned, names, strict=True)]
    return {"recall_when_learned": fmean(learned), "forgetting": fmean(lost[:-1])}
