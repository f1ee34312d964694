"""Declarations of language modelling tasks: the user's text, and a language drawn at random. Imports nothing heavy."""

from dataclasses import dataclass
from typing import ClassVar

from rosa_bench.data.spec import DataSpec
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import one_of
from rosa_bench.system.setting import setting
from rosa_bench.tasks.base import Task

SCORES = ("loss", "bits_per_character")
ORDER = 2  # symbols that the next one of a drawn language depends on


@dataclass(frozen=True, kw_only=True)
class PackedTask(Task):
    """A text as one stream of tokens, in rows of ``max_length``. The scores are `SCORES` of held-out text."""

    model_kind: ClassVar[type[Model]] = Decoder

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task.score", self.score, SCORES)

    @property
    def lower_is_better(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class LanguageTask(PackedTask):
    """Continue texts from files. A row of a file is a document; in a ``.txt`` file, a paragraph."""

    text_column: str = setting("column of the text; a .txt file has one column, text", default="text")
    validation_share: float = setting(
        "fraction of the train documents that replaces a missing file of validation documents, the same for every seed",
        default=0.05, above=0, below=1,
    )  # fmt: skip

    endings: ClassVar[tuple[str, ...]] = (".txt", *DataSpec.endings)
    prepared_by: ClassVar[str] = "rosa_bench.tasks.language_modelling.prepare"

    @property
    def optional_splits(self) -> tuple[str, ...]:
        return (self.validation,)

    @property
    def in_data_dir(self) -> str:
        if self.folder != ".":
            return super().in_data_dir
        return ", ".join(f"{self.train}{ending}" for ending in (".txt", ".jsonl")) + f" or {self.train}.parquet"


@dataclass(frozen=True, kw_only=True)
class NewLanguageTask(PackedTask):
    """Continue a text in a language drawn at random: a second-order Markov source whose entropy is known."""

    symbols: int = setting("number of symbols, each a token of the model", at_least=2, at_most=128)
    concentration: float = setting(
        "concentration of the Dirichlet distribution of the next symbol's probabilities; small: predictable",
        at_least=0.05, at_most=1000,
    )  # fmt: skip
    train_tokens: int = setting("length of the train text", at_least=ORDER + 1, at_most=10**8)
    validation_tokens: int = setting("length of the validation text", at_least=ORDER + 1, at_most=10**8)
    source_seed: int = setting(
        "seed of the language and its text, which do not depend on the run's seed", at_least=0, below=2**32, default=0
    )

    prepared_by: ClassVar[str] = "rosa_bench.tasks.language_modelling.new_language"
