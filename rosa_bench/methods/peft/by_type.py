"""Any tuner of Hugging Face PEFT by its type: one that changes layers, or one that puts virtual tokens before the text.

The files of PEFT's method comparison run unchanged: ``method=peft method.adapter_config=adapter_config.json``. A file
without targets tunes what PEFT tunes in such a model, often less than our ``targets=attention``. What such a file says
of its own base model, as the number of layers, is not used. Neither is the training_params.json beside it: its learning
rate, its optimizer (LoRA-FA's, for example) and its text for a prefix. Losses that PEFT leaves to the training loop, as
KaSA's, are not added; AdaLoRA's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.base import Changed, RunLength
from rosa_bench.methods.peft.adalora import OWN, AdaLora, from_peft
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
    """Has the settings of all types. The method that the type belongs to does the work."""

    parts: dict[str, str] | None = setting(
        "what the parts of a block are called in this model", default=None, identity=False, published=False
    )

    drives: ClassVar[tuple[str, ...]] = (*TOKEN_TYPES, *AdaLora.drives)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets == AUTO:
            chosen = self.adapter_config is not None or self.peft_type in OTHER_LAYERS
            object.__setattr__(self, "targets", USUAL if chosen else "attention")
        _ = self.inner  # so that wrong settings are found now

    @cached_property
    def inner(self) -> PeftTuner | PeftTokens:
        """The method that does the work."""
        return MAKERS.get(str(self.peft_type), _tuner)(self)

    def check_shapes(self, model: nn.Module) -> None:
        self.inner.check_shapes(model)

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        return self.inner.attach(model, calibration)

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return self.inner.trainable(model)

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        return self.inner.watched_names(model, attention)

    def save(self, model: nn.Module, folder: Path) -> None:
        self.inner.save(model, folder)

    def check_saves(self, model: nn.Module) -> None:
        self.inner.check_saves(model)

    def penalty(self, model: nn.Module) -> Tensor | None:
        return self.inner.penalty(model)

    def after_backward(self, model: nn.Module) -> None:
        self.inner.after_backward(model)

    def is_due(self, step: int, length: RunLength) -> bool:
        return self.inner.is_due(step, length)

    def before_step(self, model: nn.Module, step: int, **given: Any) -> Changed:
        return self.inner.before_step(model, step, **given)


def _tuner(given: PeftByType) -> PeftTuner:
    return PeftTuner(**_common(given))


def _adalora(given: PeftByType) -> AdaLora:
    rest = {key: value for key, value in given.config.items() if key not in OWN}
    return AdaLora(**(_common(given) | {"config": rest} | from_peft(given.config)))


def _tokens(given: PeftByType) -> PeftTokens:
    count = given.config.get("num_virtual_tokens")
    if type(count) is not int or count < 1:
        raise UserError(
            f"method.config.num_virtual_tokens={count} is not a number of vectors; "
            f"set it for method.peft_type={given.peft_type}"
        )
    return PeftTokens(
        name=given.name, title=given.title, seed=given.seed, head=given.head, default_lr=given.default_lr,
        train_head=given.train_head, parts=given.parts, tokens=count, peft_type=str(given.peft_type),
        config={key: value for key, value in given.config.items() if key not in OURS},
    )  # fmt: skip


def _common(given: PeftByType) -> dict[str, Any]:
    """Return the settings of any tuner of layers. Those of the file are among ``config`` by now."""
    return {field.name: getattr(given, field.name) for field in fields(PeftTuner)} | {"adapter_config": None}


MAKERS: Mapping[str, Callable[[PeftByType], PeftTuner | PeftTokens]] = {
    **dict.fromkeys(AdaLora.drives, _adalora),
    **dict.fromkeys(TOKEN_TYPES, _tokens),
}
