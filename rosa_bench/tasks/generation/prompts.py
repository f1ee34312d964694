"""Load and check the rows of a generation task: prompts, each with its reference texts."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rosa_bench.data.hub import Place, fetch_rows
from rosa_bench.data.official import describe_rows
from rosa_bench.data.reading.values import brief
from rosa_bench.data.rows import DataInfo, read_table, sample
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.task import GenerationTask


class Pair(NamedTuple):
    """A prompt and one reference for it."""

    prompt: str
    reference: str


class Prompt(NamedTuple):
    """A prompt and all of its references, which one output is compared with."""

    text: str
    references: list[str]

    @property
    def pairs(self) -> list[Pair]:
        """The prompt with each of its references."""
        return [Pair(self.text, reference) for reference in self.references]


class PromptSplits(NamedTuple):
    """The rows of one run: ``validation`` selects the epoch, ``test`` is scored."""

    train: list[Pair]
    validation: list[Prompt]
    test: list[Prompt]
    info: DataInfo


def load_prompts(
    task: GenerationTask, place: Place, *, limit_train: int | None = None, limit_eval: int | None = None
) -> PromptSplits:
    """Load, check and limit a task's rows.

    ``limit_train`` selects random rows. ``limit_eval`` selects random prompts of validation and of test, with all their
    references. The selection is the same for all seeds. Raises `UserError` if data are missing or not as declared.
    """
    place = fetch_rows(task, place)  # once for all splits
    rows = {split: load_pairs(task, split, place) for split in task.splits}
    train = sample(rows[task.train], limit_train, key="limit_train", what="train rows")
    validation, test = (
        sample(group_by_prompt(rows[split]), limit_eval, key="limit_eval", what=f"{split} prompts")
        for split in (task.validation, task.test)
    )
    kept = {
        task.train: train,
        task.validation: [pair for prompt in validation for pair in prompt.pairs],
        task.test: [pair for prompt in test for pair in prompt.pairs],
    }
    info = describe_rows(
        task,
        place,
        rows,
        kept={split: len(some) for split, some in kept.items()},
        rows={
            "train": len(train),
            "held_out": 0,
            "validation": len(kept[task.validation]),
            "test": len(kept[task.test]),
        },
        used=[pair for split in task.splits for pair in kept[split]],
    )
    return PromptSplits(train, validation, test, info)


def load_pairs(task: GenerationTask, split: str, place: Place) -> list[Pair]:
    """Load all rows of a split. Raises `UserError` for an empty prompt or reference."""
    table = read_table(task, split, place, columns=task.columns)
    pairs = []
    for number, values in enumerate(table.rows, start=1):
        for column in task.columns:
            text = values.get(column)
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{table.where}, row {number}: column {column} contains {brief(text)}, not a text")
        pairs.append(Pair(values[task.prompt].strip(), values[task.reference].strip()))
    return pairs


def group_by_prompt(pairs: Sequence[Pair]) -> list[Prompt]:
    """Collect the references of each prompt. Prompts and references keep the order of first appearance."""
    references: dict[str, list[str]] = defaultdict(list)
    for prompt, reference in pairs:
        references[prompt].append(reference)
    return [Prompt(prompt, texts) for prompt, texts in references.items()]
