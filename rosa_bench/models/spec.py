"""Model declarations, composed from ``conf/model/<name>.yaml``. Imports nothing heavy."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Checked, setting

LARGEST = 10**6  # number in the configuration of a random model: far more than any has
MOST_LAYERS = 1000


@dataclass(kw_only=True)
class Wheel:
    """Weights distributed inside wheels on the Python package index. Nothing in a wheel is ever imported.

    requirements  ``name==version`` of each package, in order
    sha256        hash of each package's wheel
    folder        folder of the weights and the tokenizer inside the wheel or archive
    pieces        suffix of the pieces, without the number, if the wheels hold the pieces of one zip archive
    gguf          file name in ``folder``, if the weights are a GGUF file instead of safetensors
    quantisation  type of the layers' weights in that file, such as ``Q4_1``; they are converted to float32
    """

    requirements: list[str]
    sha256: list[str]
    folder: str
    pieces: str | None = None
    gguf: str | None = None
    quantisation: str | None = None

    def __post_init__(self) -> None:
        if len(self.requirements) != len(self.sha256):
            raise UserError("model.wheel needs one sha256 for each requirement")
        if (self.gguf is None) != (self.quantisation is None):
            raise UserError("model.wheel needs both gguf and quantisation, or neither")


@dataclass(frozen=True, kw_only=True)
class Model(Checked, ABC):
    """Declaration shared by every kind of model."""

    section: ClassVar[str] = "model"

    name: str = setting("name of the model", is_name=True)
    title: str = setting("name in tables", identity=False)
    parameters: int | None = setting(
        "number of parameters without a head; None if it depends on the task",
        default=None,
        at_least=0,
        at_most=10**13,
        identity=False,
    )
    licence: str = setting("licence of the weights", identity=False)
    attention: str = setting("regular expression for the ends of the attention projections' names")
    head: str = setting("regular expression for the ends of the names of the task head's modules")
    parts: dict[str, str] | None = setting(
        "regular expressions for the ends of the names of a block's parts, for methods that insert layers",
        default=None,
        identity=False,
        published=False,
    )
    model_type: str | None = setting(
        "Hugging Face model_type of the weights; others are refused", default=None, identity=False, published=False
    )
    hub: str | None = setting("id on the Hugging Face hub", default=None, identity=False)
    revision: str | None = setting("commit or tag on the hub", default=None, identity=False)
    wheel: Wheel | None = setting("the same weights on the package index", default=None, identity=False)
    path: str | None = setting(
        "local folder in Hugging Face format; takes precedence over every other source",
        default=None,
        identity=False,
        published=False,
    )
    note: str = setting("what readers of a score must know about these weights", default="", identity=False)

    described: ClassVar[str]
    packable: ClassVar[bool] = True

    @property
    @abstractmethod
    def drawn_from(self) -> dict[str, Any] | None:
        """The configuration that random weights are drawn from, or None for pre-trained weights."""


@dataclass(frozen=True, kw_only=True)
class Transformer(Model):
    """A pre-trained Transformer, or a randomly initialised one."""

    random: dict[str, Any] | None = setting(
        "Hugging Face configuration, with its model_type, of a model with random weights",
        default=None,
        at_least=-LARGEST,
        at_most=LARGEST,
        identity=False,
    )
    shape: dict[str, Any] | None = setting(
        "Hugging Face configuration, as far as it sets shapes, for what is computed without the weights",
        default=None,
        identity=False,
        published=False,
    )
    fused: dict[str, int] = setting(
        "number of projections in one weight matrix, by the end of the attention layer's name",
        default_factory=dict,
        before={},
        published=False,
    )
    lm_head: str | None = setting("output layer of a decoder", default=None, before=None, published=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any((self.hub, self.wheel, self.path, self.random)):
            raise UserError(f"model {self.name} has no weights; set model.hub, model.wheel, model.path or model.random")
        for key, value in (self.random or {}).items():
            if "layer" in key and isinstance(value, int) and value > MOST_LAYERS:
                raise UserError(f"model.random.{key}={value} is out of range; it must be at most {MOST_LAYERS}")

    @property
    def drawn_from(self) -> dict[str, Any] | None:
        return self.random


@dataclass(frozen=True, kw_only=True)
class Encoder(Transformer):
    """A Transformer that reads a whole text. The task adds the head."""

    described: ClassVar[str] = "an encoder, such as roberta_base"


@dataclass(frozen=True, kw_only=True)
class Decoder(Transformer):
    """A Transformer that continues a text."""

    lm_head: str = setting("regular expression for the name of the layer that computes the logits")
    fused: dict[str, int] = setting(
        "number of projections in one weight matrix, by the end of the attention layer's name", default_factory=dict
    )

    described: ClassVar[str] = "a decoder, such as gpt2"


@dataclass(frozen=True, kw_only=True)
class Perceptron(Model):
    """A multilayer perceptron without biases, with new random weights in each run. The task sets the outer widths."""

    hidden: list[int] = setting(
        "widths of the hidden layers; an empty list makes the model linear", at_least=1, at_most=10**5
    )
    activation: str = setting("between layers: relu, tanh or gelu", default="relu", choices=("relu", "tanh", "gelu"))

    described: ClassVar[str] = "a perceptron, such as mlp1"
    packable: ClassVar[bool] = False  # it already holds one model for each replicate

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden) > MOST_LAYERS:
            raise UserError(f"model.hidden has {len(self.hidden)} layers; at most {MOST_LAYERS} are allowed")
        for key in ("hub", "wheel", "path"):
            if getattr(self, key) is not None:
                raise UserError(
                    f"model.{key} is for pre-trained models; remove it, as {self.name} is initialised randomly"
                )

    @property
    def drawn_from(self) -> dict[str, Any]:
        return {"hidden": self.hidden, "activation": self.activation}

    def shapes(self, inputs: int, outputs: int) -> list[tuple[int, int]]:
        """Return the shape (out, in) of each weight."""
        widths = [inputs, *self.hidden, outputs]
        return list(zip(widths[1:], widths[:-1], strict=True))
