"""Declaration of a text generation task. Imports nothing heavy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.metrics.base import Metric
from rosa_bench.models.spec import Decoder, Model
from rosa_bench.system.errors import at_least
from rosa_bench.tasks.base import Task

if TYPE_CHECKING:
    from rosa_bench.tasks.base import Context
    from rosa_bench.tasks.prepared import PreparedTask


@dataclass(kw_only=True)
class Decoding:
    """Decoding settings: beam search, or greedy decoding with one beam.

    beams            number of beams
    no_repeat_ngram  length of the n-grams that may not be repeated within an output; 0 allows all
    max_new_tokens   maximum length of an output, which is cut off there
    length_penalty   exponent of the length in a beam's score
    """

    beams: int
    no_repeat_ngram: int
    max_new_tokens: int
    length_penalty: float

    def __post_init__(self) -> None:
        at_least("task.decoding.beams", self.beams, 1)
        at_least("task.decoding.no_repeat_ngram", self.no_repeat_ngram, 0)
        at_least("task.decoding.max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """Generate a text from a prompt. Rows with the same prompt are references for one output.

    prompt, reference  columns; a sequence is the prompt, ``separator``, a space, the reference, and the EOS token
    separator          text between prompt and reference
    loss_on_prompt     whether the loss includes the prompt's tokens
    test               name of the split that is scored once, at the end; ``validation`` selects the epoch
    decoding           decoding settings
    metric             module of `rosa_bench.metrics`; ``score`` is one of its scores
    """

    prompt: str
    reference: str
    separator: str
    loss_on_prompt: bool
    test: str = "test"
    decoding: Decoding
    metric: str

    has_text: ClassVar[bool] = True
    model_kind: ClassVar[type[Model]] = Decoder

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

    def prepare(self, context: "Context") -> "PreparedTask":
        from rosa_bench.tasks.generation.prepare import prepare

        return prepare(self, context)
