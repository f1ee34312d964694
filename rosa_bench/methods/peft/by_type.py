"""Any tuner of Hugging Face PEFT by its type: one that changes layers, or one that puts virtual tokens before the text.

AdaLoRA's schedule, which PEFT counts in steps of ``total_step``, becomes fractions of the run.

The files of PEFT's method comparison run unchanged: ``method=peft method.adapter_config=adapter_config.json``. A file
without targets tunes what PEFT tunes in such a model, often less than our ``targets=attention``. What such a file says
of its own base model, as the number of layers, is not used. Neither is the training_params.json beside it: its learning
rate, its optimizer (LoRA-FA's, for example) and its text for a prefix. Losses that PEFT leaves to the training loop, as
KaSA's, are not added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.base import Changed, RunLength
from rosa_bench.methods.peft.adalora import OWN, AdaLora
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
MAY_BE_ZERO = ("orth_reg_weight", "r", "tfinal", "tinit")  # of AdaLoRA's settings


@dataclass(frozen=True, kw_only=True)
class PeftByType(PeftTuner):
    """A tuner of layers, or the method of the same settings: AdaLoRA, or one that trains virtual tokens."""

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
    def inner(self) -> AdaLora | PeftTokens | None:
        """The method that does the work, or None if a tuner of layers needs nothing else."""
        return self.adalora if self.peft_type in AdaLora.drives else self.tokens

    @property
    def adalora(self) -> AdaLora:
        """AdaLoRA with the schedule of PEFT's settings, as fractions of the run. Its defaults are PEFT's."""
        given: dict[str, Any] = {
            "target_r": 8, "init_r": 12, "tinit": 0, "tfinal": 0, "deltaT": 1, "orth_reg_weight": 0.5, "total_step": 1,
        }  # fmt: skip
        given |= {key: value for key, value in self.config.items() if key in OWN and value is not None}
        for key, value in given.items():
            kinds, least = (int, float) if key == "orth_reg_weight" else (int,), int(key not in MAY_BE_ZERO)
            if type(value) not in kinds or not value >= least:
                raise UserError(f"method.config.{key}={value} is out of range; it must be a number of at least {least}")
        total, outside = given["total_step"], given["tinit"] + given["tfinal"]
        if outside >= total:
            raise UserError(
                f"method.config.total_step={total} leaves nothing after the {outside} of tinit and tfinal; "
                "set it higher: a run has their shares of it, whatever its length"
            )
        chosen: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(PeftTuner)}
        chosen |= {
            "adapter_config": None, "config": {key: value for key, value in self.config.items() if key not in OWN},
            "rank": given["target_r"], "initial": max(1.0, given["init_r"] / given["target_r"]),
            "every": given["deltaT"], "warm_up": given["tinit"] / total, "final": given["tfinal"] / total,
            "orthogonality": given["orth_reg_weight"],
        }  # fmt: skip
        return AdaLora(**chosen)

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
        (super() if self.inner is None else self.inner).check_shapes(model)

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        return (super() if self.inner is None else self.inner).attach(model, calibration)

    def target_names(self, model: nn.Module) -> list[str]:
        return (self.inner if isinstance(self.inner, AdaLora) else super()).target_names(model)

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return (super() if self.inner is None else self.inner).trainable(model)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        return (super() if self.inner is None else self.inner).state(model)

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        return (super() if self.inner is None else self.inner).watched_names(model, attention)

    def save(self, model: nn.Module, folder: Path) -> None:
        (super() if self.inner is None else self.inner).save(model, folder)

    def penalty(self, model: nn.Module) -> Tensor | None:
        return (super() if self.inner is None else self.inner).penalty(model)

    def after_backward(self, model: nn.Module) -> None:
        (super() if self.inner is None else self.inner).after_backward(model)

    def is_due(self, step: int, length: RunLength) -> bool:
        return (super() if self.inner is None else self.inner).is_due(step, length)

    def before_step(
        self,
        model: nn.Module,
        step: int,
        *,
        length: RunLength,
        headroom_bytes: int | None = None,
        loss: Callable[[], Tensor] | None = None,
    ) -> Changed:
        does: Any = super() if self.inner is None else self.inner
        return does.before_step(model, step, length=length, headroom_bytes=headroom_bytes, loss=loss)
