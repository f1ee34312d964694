"""Load, check and split the documents of a language modelling task."""

from pathlib import Path
from typing import NamedTuple

from rosa_bench.data.hub import Place, fetch_rows
from rosa_bench.data.official import describe_rows
from rosa_bench.data.reading.values import brief
from rosa_bench.data.rows import (
    SUBSET_SEED,
    DataInfo,
    held_out_size,
    hold_out,
    random_order,
    read_table,
    sample,
    take,
)
from rosa_bench.data.source import files_of_split
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.language_modelling.task import LanguageTask


class Documents(NamedTuple):
    """The documents of one run. ``held_out`` is taken from train for selection; empty if the protocol does not.

    validation_from  the split of the source that the validation documents are from
    """

    train: list[str]
    held_out: list[str]
    validation: list[str]
    validation_from: str
    info: DataInfo


class Source(NamedTuple):
    """All documents of a source by split, and the split of its files that the validation documents are from."""

    train: list[str]
    validation: list[str]
    validation_from: str


def load_documents(task: LanguageTask, context: Context) -> Documents:
    """Load, check, limit and split a task's documents.

    ``limit_train`` and ``limit_eval`` select random documents, the same for all seeds. Held-out documents are drawn
    with the run's seed. Raises `UserError` if data are missing or not as declared.
    """
    place = fetch_rows(task, context.rows)
    source = read_source(task, place)
    everything = {task.train: source.train, task.validation: source.validation}
    train = sample(source.train, context.limit_train, key="limit_train", what="train documents")
    validation = limited_validation(source, context)
    held_out: list[str] = []
    if context.held_out_rows:
        size = held_out_size(len(train), context.held_out_rows, context.held_out_max)
        train, held_out = hold_out(train, size, seed=context.seed)
    if not train:
        raise UserError(
            f"task={task.name} has no train documents left after limit_train and the held-out ones; use a larger "
            "limit_train, or a file with more documents (in a .txt file, blank lines separate them)"
        )
    info = describe_rows(
        task,
        place,
        {split: [(text,) for text in texts] for split, texts in everything.items()},
        kept={task.train: len(train) + len(held_out), task.validation: len(validation)},
        rows={"train": len(train), "held_out": len(held_out), "validation": len(validation)},
        used=[(text,) for text in (*train, *held_out, *validation)],
    )
    return Documents(train, held_out, validation, source.validation_from, info)


def limited_validation(source: Source, context: Context) -> list[str]:
    """Return the validation documents that ``limit_eval`` leaves."""
    return sample(source.validation, context.limit_eval, key="limit_eval", what="validation documents")


def read_source(task: LanguageTask, place: Place) -> Source:
    """Read all documents. Without a file of validation documents, some train documents take their place.

    They are the same in every run, whatever its seed.
    """
    train = read_split(task, task.train, place)
    if not isinstance(place, Path) or files_of_split(task, task.validation, place):
        return Source(train, read_split(task, task.validation, place), task.validation)
    if len(train) == 1:
        raise UserError(
            f"{place} has one train document and no {task.validation} file, so nothing can be held out; add "
            f"{task.validation}.txt, or separate documents (in a .txt file, by blank lines)"
        )
    order = random_order(len(train), SUBSET_SEED)
    size = held_out_size(len(train), task.validation_share, len(train) - 1)
    return Source(take(train, sorted(order[size:])), take(train, sorted(order[:size])), task.train)


def read_split(task: LanguageTask, split: str, place: Place) -> list[str]:
    """Read all documents of a split. Raises `UserError` for one that is empty or not a text."""
    table = read_table(task, split, place, columns=[task.text_column])
    texts = []
    for number, values in enumerate(table.rows, start=1):
        text = values.get(task.text_column)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{table.where}, row {number}: column {task.text_column} contains {brief(text)}, not a text"
            )
        texts.append(text)
    return texts
