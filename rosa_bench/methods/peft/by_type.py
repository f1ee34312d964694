"""Any tuner of Hugging Face PEFT by its type: one that changes layers, or one that puts virtual tokens before the text.

The files of PEFT's method comparison run unchanged: ``method=peft method.adapter_config=adapter_config.json``. A file
without targets tunes what PEFT tunes in such a model, often less than our ``targets=attention``. What such a file says
of its own base model, as the number of layers, is not used. Neither is the training_params.json beside it: its learning
rate, its optimizer (LoRA-FA's, for example) and its text for a prefix. Losses that PEFT leaves to the training loop, as
KaSA's, are not added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from rosa_bench.methods.peft.behaviour import TOKEN_TYPES
from rosa_bench.methods.peft.targets import OTHER_LAYERS, USUAL
from rosa_bench.methods.peft.tuner import PeftTuner
from rosa_bench.methods.peft.virtual_tokens import OURS, PeftTokens
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


# method.targets: what PEFT itself tunes, for a file and for tuners of other than linear layers; otherwise attention.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class PeftByType(PeftTuner):
    """A tuner of layers, or the method of the same settings that trains virtual tokens."""

    parts: dict[str, str] | None = setting(
        "what the parts of a block are called in this model", default=None, identity=False, published=False
    )

    drives: ClassVar[tuple[str, ...]] = TOKEN_TYPES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets == AUTO:
            chosen = self.adapter_config is not None or self.peft_type in OTHER_LAYERS
            object.__setattr__(self, "targets", USUAL if chosen else "attention")
        _ = self.tokens  # so that wrong settings are found now

    @cached_property
    def tokens(self) -> PeftTokens | None:
        """The method that trains virtual tokens, or None if the tuner changes layers."""
        if self.peft_type not in TOKEN_TYPES:
            return None
        count = self.config.get("num_virtual_tokens")
        if type(count) is not int or count < 1:
            raise UserError(
                f"method.config.num_virtual_tokens={count} is not a number of vectors; "
                f"set it for method.peft_type={self.peft_type}"
            )
        return PeftTokens(
            name=self.name, title=self.title, seed=self.seed, head=self.head, default_lr=self.default_lr,
            train_head=self.train_head, parts=self.parts, tokens=count, peft_type=self.peft_type,
            config={key: value for key, value in self.config.items() if key not in OURS},
        )  # fmt: skip

    def check_shapes(self, model: nn.Module) -> None:
        (super() if self.tokens is None else self.tokens).check_shapes(model)

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        return (super() if self.tokens is None else self.tokens).attach(model, calibration)

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return (super() if self.tokens is None else self.tokens).trainable(model)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        return (super() if self.tokens is None else self.tokens).state(model)

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        return (super() if self.tokens is None else self.tokens).watched_names(model, attention)

    def save(self, model: nn.Module, folder: Path) -> None:
        (super() if self.tokens is None else self.tokens).save(model, folder)
