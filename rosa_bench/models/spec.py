"""What a model is: a declaration, composed from ``conf/model/<name>.yaml``. Imports nothing heavy."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rosa_bench.system.errors import UserError, at_least, one_of
from rosa_bench.system.setting import setting


@dataclass(kw_only=True)
class Wheel:
    """Weights that travel inside packages of the Python package index, as data: nothing in them is ever imported.

    requirements  ``name==version`` of each package, in order; ``sha256`` of each one's wheel
    folder        of the weights and the tokenizer, inside the wheel, or inside the archive
    pieces        where the wheels hold the pieces of one zip archive: how a piece's name ends, without its number
    gguf          name of the weights in ``folder``, where they are a GGUF file in place of safetensors
    quantisation  how that file holds the layers' weights, such as ``Q4_1``; pulled, they are float32
    """

    requirements: list[str]
    sha256: list[str]
    folder: str
    pieces: str | None = None
    gguf: str | None = None
    quantisation: str | None = None

    def __post_init__(self) -> None:
        if len(self.requirements) != len(self.sha256):
            raise UserError("model.wheel must name one sha256 for each requirement")
        if (self.gguf is None) != (self.quantisation is None):
            raise UserError("model.wheel must name both gguf and quantisation, or neither")


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """What every kind of model declares.

    title       as in a table
    parameters  in all, without a head; none where the task decides
    attention   regular expression for the ends of the names of the attention projections
    head        the same for the modules that are the task's head
    hub         id on the Hugging Face hub; ``revision`` pins a commit or a tag
    wheel       the same weights on the package index
    path        a local folder in Hugging Face form; goes before every other source
    note        what a reader of a figure must know of these weights
    """

    name: str
    title: str = setting("as in a table", identity=False)
    parameters: int | None = setting(
        "number of parameters without a head; null: the task decides", default=None, identity=False
    )
    licence: str = setting("licence of the weights", identity=False)
    attention: str
    head: str
    hub: str | None = setting("id on the Hugging Face hub", default=None, identity=False)
    revision: str | None = setting("commit or tag on the hub", default=None, identity=False)
    wheel: Wheel | None = setting("the same weights on the package index", default=None, identity=False)
    path: str | None = setting(
        "local folder in Hugging Face form; takes precedence", default=None, identity=False, published=False
    )
    note: str = setting("what a reader must know of these weights", default="", identity=False)

    described: ClassVar[str]

    @property
    @abstractmethod
    def drawn_from(self) -> dict[str, Any] | None:
        """What random weights are drawn from, where they are random."""


@dataclass(frozen=True, kw_only=True)
class Transformer(Model):
    """A pre-trained Transformer, or the shape of a random one.

    random  a Hugging Face configuration (with its ``model_type``) to fill with random weights
    """

    random: dict[str, Any] | None = setting("configuration to fill with random weights", default=None, identity=False)

    def __post_init__(self) -> None:
        if not any((self.hub, self.wheel, self.path, self.random)):
            raise UserError(f"model {self.name} must say where its weights are: hub, wheel, path or random")

    @property
    def drawn_from(self) -> dict[str, Any] | None:
        return self.random


@dataclass(frozen=True, kw_only=True)
class Encoder(Transformer):
    """A Transformer that reads a text as a whole, and is given a head by its task."""

    described: ClassVar[str] = "an encoder, such as roberta_base"


@dataclass(frozen=True, kw_only=True)
class Decoder(Transformer):
    """A Transformer that continues a text.

    lm_head  regular expression for the layer that turns states into logits
    fused    how many projections each kind of attention layer holds in one matrix, by the ends of layers' names
    """

    lm_head: str
    fused: dict[str, int] = field(default_factory=dict)

    described: ClassVar[str] = "a decoder, such as gpt2"


@dataclass(frozen=True, kw_only=True)
class Perceptron(Model):
    """A multilayer perceptron without biases, drawn anew for each run. Its task says how wide its ends are.

    hidden      widths of the hidden layers; none make it linear
    activation  between layers: ``relu``, ``tanh``, ``gelu``
    """

    hidden: list[int]
    activation: str = "relu"

    described: ClassVar[str] = "a perceptron, such as mlp1"

    def __post_init__(self) -> None:
        one_of("model.activation", self.activation, ("relu", "tanh", "gelu"))
        for width in self.hidden:
            at_least("model.hidden", width, 1)
        for key in ("hub", "wheel", "path"):
            if getattr(self, key) is not None:
                raise UserError(f"model.{key} is for pre-trained models; {self.name} is drawn anew for each run")

    @property
    def drawn_from(self) -> dict[str, Any]:
        return {"hidden": self.hidden, "activation": self.activation}

    def shapes(self, inputs: int, outputs: int) -> list[tuple[int, int]]:
        """(out, in) of each weight."""
        widths = [inputs, *self.hidden, outputs]
        return list(zip(widths[1:], widths[:-1], strict=True))
