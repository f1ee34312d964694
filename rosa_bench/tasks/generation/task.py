"""A task of writing a text from what a prompt says. Imports nothing heavy."""

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
    """How a text is written: beam search, or greedily with one beam.

    no_repeat_ngram  no run of so many tokens comes twice in an output; 0 lets them
    max_new_tokens   the most an output may have; one that reaches it is cut there
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
    """Write what ``prompt`` says as ``reference`` does. Rows with equal prompts are references for one output.

    prompt, reference  columns; a sequence is the prompt, ``separator``, a space, the reference, and an end sign
    loss_on_prompt     whether predicting the prompt is trained too
    test               name of the split that is scored, once, at the end; ``validation`` selects
    decoding           how outputs are written
    metric             module of `rosa_bench.metrics`; ``score`` is one of its figures
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
        """Perplexity: writing the validation outputs after every epoch would cost more than training does."""
        return Metric("perplexity", lower_is_better=True)

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.train, self.validation, self.test)

    @property
    def columns(self) -> list[str]:
        """Every column that must be there."""
        return [self.prompt, self.reference]

    def prepare(self, context: "Context") -> "PreparedTask":
        from rosa_bench.tasks.generation.prepare import prepare

        return prepare(self, context)
