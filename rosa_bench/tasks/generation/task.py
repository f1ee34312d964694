"""Declaration of a text generation task. Imports nothing heavy."""

from dataclasses import dataclass
from typing import ClassVar

from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Checked, setting
from rosa_bench.tasks.base import Task

LIKELIHOODS = ("loss", "perplexity")  # scores of the references; they need no output


@dataclass(kw_only=True)
class Decoding(Checked):
    """Decoding settings: beam search, or greedy decoding with one beam."""

    section: ClassVar[str] = "task.decoding"

    beams: int = setting("number of beams", at_least=1, at_most=1000)
    no_repeat_ngram: int = setting(
        "length of the n-grams that may not be repeated within an output; 0 allows all", at_least=0, at_most=10**5
    )
    max_new_tokens: int = setting("maximum length of an output, which is cut off there", at_least=1, at_most=10**5)
    length_penalty: float = setting("exponent of the length in a beam's score", at_least=-100, at_most=100)


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """Generate a text from a prompt. Rows with the same prompt are references for one output.

    Without ``decoding`` nothing is generated, and the references alone are scored, by one of `LIKELIHOODS`.
    """

    prompt: str = setting("column of the prompt, with which a sequence begins; the separator and a space follow")
    reference: str = setting("column of the text to write, with which a sequence ends, before the EOS token")
    separator: str = setting("text between prompt and reference")
    loss_on_prompt: bool = setting("whether the loss includes the prompt's tokens")
    test: str = setting(
        "name of the split that is scored once, at the end; validation selects the epoch", default="test"
    )
    decoding: Decoding | None = setting("decoding settings; null: write no texts, and report the loss or perplexity")
    metric: str = setting("module of rosa_bench.metrics; score is one of its scores, or loss or perplexity")

    model_kind: ClassVar[type[Model]] = Decoder
    prepared_by: ClassVar[str] = "rosa_bench.tasks.generation.prepare"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding is None and self.score not in LIKELIHOODS:
            raise UserError(f"task.decoding=null writes no texts for task.score={self.score}; use task.score=loss")

    @property
    def lower_is_better(self) -> bool:
        return self.score in LIKELIHOODS

    @property
    def selects_by(self) -> Metric:
        """Perplexity: generating the validation outputs after every epoch would cost more than training."""
        return Metric("perplexity", lower_is_better=True)

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.train, self.validation, self.test)

    @property
    def columns(self) -> list[str]:
        """All required columns."""
        return [self.prompt, self.reference]
