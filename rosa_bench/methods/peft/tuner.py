"""Any tuner of Hugging Face PEFT that changes layers, with our head, loop, checkpoints, merging and records.

Source: PEFT, https://github.com/huggingface/peft. We differ in four points. The model is never wrapped: PEFT's layers
are put into it, and merging puts plain layers back. Targets, head and biases follow our settings, unless
``config.target_modules`` names targets. GPT-2's ``Conv1D`` layers are tuned as the linear layers that they are, so
every tuner serves GPT-2. All draws depend on the run's seed and are made on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rosa_bench.methods.adapted import AdapterMethod
from rosa_bench.methods.base import Method
from rosa_bench.methods.peft.behaviour import behaviour_of
from rosa_bench.methods.peft.config import (
    checked_config,
    configuration,
    read_adapter_config,
    refused_in_one_line,
    tuner_class,
)
from rosa_bench.methods.peft.targets import USUAL, check_targets, matching, narrowed, settled, usual
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import seed_of
from rosa_bench.system.setting import setting

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import Tensor, nn

    from rosa_bench.layers.tuned import Tuned

ADAPTER = "default"  # the name that PEFT gives its only adapter


@dataclass(frozen=True, kw_only=True)
class PeftTuner(AdapterMethod):
    """Trains the parameters that one of PEFT's tuners puts into linear layers."""

    peft_type: str | None = setting("type of PEFT's tuner; null: that of the file, or LORA", default=None)
    config: dict[str, Any] = setting(
        "settings of PEFT's tuner; the others keep PEFT's defaults", default_factory=dict, open=True
    )
    adapter_config: str | None = setting(
        "JSON file with settings of PEFT's tuner, which method.config changes",
        default=None, identity=False, published=False,
    )  # fmt: skip
    calibration_batches: int = setting(
        "training batches for a start that depends on data", default=8, at_least=1, at_most=10**6
    )

    libraries: ClassVar[tuple[str, ...]] = ("peft",)
    drives: ClassVar[tuple[str, ...]] = ()  # types that need more than the layers, which a subclass provides

    def __post_init__(self) -> None:
        super().__post_init__()
        require_peft(self.name)
        given = {} if self.adapter_config is None else read_adapter_config(Path(self.adapter_config).expanduser())
        kind = str(self.peft_type or given.get("peft_type") or self.config.get("peft_type") or "LORA")
        for other in (given.get("peft_type"), self.config.get("peft_type")):
            if other not in (None, kind):
                raise UserError(f"method.peft_type={kind} differs from the {other} of its settings; use one of them")
        object.__setattr__(self, "peft_type", kind)
        object.__setattr__(self, "config", checked_config({**given, **self.config}))
        if (reason := behaviour_of(kind, self.config).refused) is not None and kind not in self.drives:
            raise UserError(f"method.peft_type={kind} cannot be used: {reason}")

    @property
    def values(self) -> dict[str, Any]:
        """The settings of PEFT's tuner, apart from its targets."""
        return {key: value for key, value in self.config.items() if key != "target_modules"}

    @property
    def keeps_function(self) -> bool:  # pyrefly: ignore[bad-override] - depends on the settings
        """Whether PEFT's tuner starts from the model's function."""
        return behaviour_of(self.peft_type, self.config).keeps_function

    @property
    def mergeable(self) -> bool:  # pyrefly: ignore[bad-override]
        """Whether PEFT can merge this tuner."""
        return behaviour_of(self.peft_type, self.config).mergeable

    @property
    def supports_graphs(self) -> bool:  # pyrefly: ignore[bad-override]
        """Whether steps through PEFT's layers can be captured."""
        return behaviour_of(self.peft_type, self.config).supports_graphs

    def configuration(self, model: nn.Module, names: Iterable[str]) -> PeftConfig:
        """Return PEFT's configuration for the layers with these names."""
        kind = str(self.peft_type)
        return configuration(kind, settled(model, kind, self.values, sorted(names)), seed=self.seed)

    def target_names(self, model: nn.Module) -> list[str]:
        """Return the names of the layers to tune: those of ``config.target_modules``, or of ``targets``."""
        chosen, kind = self.config.get("target_modules"), str(self.peft_type)
        if chosen == "all-linear":
            return replace(self, targets="all-linear", config=self.values, adapter_config=None).target_names(model)
        if chosen is None and self.targets != USUAL:
            return narrowed(super().target_names(model), model, kind, self.values)
        return matching(model, kind, self.values, usual(model, kind) if chosen is None else chosen)

    def check_shapes(self, model: nn.Module) -> None:
        from rosa_bench.layers.structure.linear import StackedLinear

        names = self.target_names(model)
        if any(isinstance(model.get_submodule(name), StackedLinear) for name in names):
            raise UserError(f"method={self.name} is for transformers; choose one with model=, or another method")
        self.configuration(model, names)
        check_targets(model, names, self.values, str(self.peft_type))

    def attach(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None = None) -> nn.Module:
        self.check_shapes(model)
        model.requires_grad_(False)
        self._inject(model, calibration)
        self.mark_trainable(model)
        return model

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        seen = set()
        for _, layer in tuned_layers(model):
            for parameter in layer.trained_parameters():  # some layers share one
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter
            if self.train_biases and layer.plain_bias is not None:
                yield layer.plain_bias
        if self.train_head:
            yield from self.head_parameters(model)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Like `Method.state`, with the frozen weights that attaching has made or changed."""
        kept = Method.state(self, model)
        for name, layer in tuned_layers(model):
            kept |= {f"{name}.{inner}": parameter for inner, parameter in layer.frozen_parameters().items()}
        return kept

    def watched_names(self, model: nn.Module, attention: str) -> list[str]:
        from rosa_bench.layers.structure.linear import LINEAR_TYPES

        return [name for name in self.target_names(model) if isinstance(model.get_submodule(name), LINEAR_TYPES)]

    def merge(self, model: nn.Module) -> bool:
        return super().merge(model) if self.mergeable else False

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the merged model, or the adapter as ``PeftModel.from_pretrained`` reads it."""
        if self.mergeable:
            super().save(model, folder)
            return
        from rosa_bench.methods.peft.saving import save_adapter

        save_adapter(self, model, folder)

    def check_saves(self, model: nn.Module) -> None:
        from rosa_bench.methods.peft.saving import check_loads

        if not self.mergeable:
            check_loads(self, model)

    def _inject(self, model: nn.Module, calibration: Iterable[Mapping[str, Tensor]] | None) -> None:
        """Put PEFT's layers into the model, and an adapter around each."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        from rosa_bench.layers.structure.surgery import check_layers, replace_module
        from rosa_bench.layers.tuned import Tuned
        from rosa_bench.methods.peft.starts import START

        names = self.split(model, self.target_names(model))
        check_layers(model, names)
        plain = {name: self._linear(model, name) for name in names}
        config = self.configuration(model, names)
        kind = tuner_class(self.peft_type)
        start = START.get(getattr(config, "init_lora_weights", None))
        device = next(model.parameters()).device
        shapes_only = device.type == "meta"  # there are no values to start from
        if shapes_only:  # the mask of SHiRA says which entries train, but not how many
            config.init_lora_weights, config.mask_fn, start = True, None, None  # pyrefly: ignore[missing-attribute]
        with refused_in_one_line(f"method={self.name}"), drawing(self.seed):
            finish = start(model, config, self._batches(calibration)) if start else None
            if not shapes_only:
                model.cpu()  # so that a seed gives the same start on every device
            weights = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in names}
            if getattr(config, "use_dora", False) and not shapes_only:
                check_rows(weights)
            with kept_on_error([model.get_parameter(f"{name}.weight") for name in names], weights.values()):
                tuner = kind(model, config, ADAPTER)
                if finish is not None:
                    finish(tuner)
        del model.peft_config
        for name in names:
            layer = model.get_submodule(name)
            tuned = isinstance(layer, BaseTunerLayer)
            after = Tuned(layer, type(plain[name]), before=weights[name]) if tuned else plain[name]
            replace_module(model, name, after)
        if not any(parameter.numel() for _, layer in tuned_layers(model) for parameter in layer.trained_parameters()):
            raise UserError(
                f"method.peft_type={self.peft_type} with these settings has nothing to train in the layers of this "
                "model; change method.config, or choose other layers with method.targets="
            )
        _leave_out_shared(model)
        move(model, device)

    def _linear(self, model: nn.Module, name: str) -> nn.Module:
        """Untie a target, and put an ``nn.Linear`` in place of a ``Conv1D``. Return the original layer."""
        from rosa_bench.layers.structure.linear import LINEAR_TYPES, as_linear
        from rosa_bench.layers.structure.surgery import replace_module, untie

        plain = model.get_submodule(name)
        if isinstance(plain, LINEAR_TYPES):
            untie(model, name)
            replace_module(model, name, as_linear(plain))
        return plain

    def _batches(self, calibration: Iterable[Mapping[str, Tensor]] | None) -> list[Mapping[str, Tensor]]:
        """Return the batches of a data-dependent start."""
        batches = [batch for batch, _ in zip(calibration or (), range(self.calibration_batches), strict=False)]
        if not batches:
            raise UserError(f"method={self.name} starts from training data, and there is none")
        return batches


@dataclass(frozen=True, kw_only=True)
class RankedPeftTuner(PeftTuner):
    """A tuner of PEFT whose setting ``r`` is the run's rank."""

    rank: int = setting("rank of the tuner", at_least=1, at_most=10**6, key="rank")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "r" in self.config:
            raise UserError("method.config.r is not for this method: use rank=")

    @property
    def values(self) -> dict[str, Any]:
        return {**super().values, "r": self.rank}


def _leave_out_shared(model: nn.Module) -> None:
    """Leave buffers that several layers share, as VeRA's, out of the model's state: a seed draws the same again.

    A safetensors file, such as a checkpoint of Trainer, refuses one tensor by several names.
    """
    seen: set[int] = set()
    for _, layer in tuned_layers(model):
        for module in layer.modules():
            if id(module) in seen:
                module._non_persistent_buffers_set.update(module._buffers)
            seen.add(id(module))


def require_peft(name: str) -> None:
    """Raise `UserError` unless PEFT is installed."""
    if find_spec("peft") is None:
        raise UserError(f"method={name} needs the package peft; install it: pip install 'rosa-bench[peft]'")


def check_rows(weights: Mapping[str, Tensor]) -> None:
    """Raise `UserError` if DoRA would divide by the norm of a row of zeros, as the embedding of the padding has."""
    for name, weight in weights.items():
        if not weight.any(1).all():
            raise UserError(
                f"{name} has a row of zeros, whose direction DoRA cannot train; use method.lm_head=null if it is the "
                "output layer, other layers with method.targets=, or method=lora"
            )


@contextmanager
def kept_on_error(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> Iterator[None]:
    """Give the parameters these values again if the block fails: a start from singular vectors has changed some."""
    try:
        yield
    except BaseException:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        raise


@contextmanager
def drawing(seed: int) -> Iterator[torch.Generator]:
    """Let torch's generator of the CPU draw from the run's seed, and put it back after the block."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield torch.default_generator.manual_seed(seed_of(seed, "peft"))


def tuned_layers(model: nn.Module) -> Iterator[tuple[str, Tuned]]:
    """Yield the names and layers that PEFT tunes, in the model's order."""
    from rosa_bench.layers.adapter import adapters
    from rosa_bench.layers.tuned import Tuned

    for name, layer in adapters(model):
        if isinstance(layer, Tuned):
            yield name, layer


def move(model: nn.Module, device: torch.device) -> None:
    """Move a model, and the tensors that PEFT's layers keep outside parameters and buffers, to a device."""
    model.to(device)
    for _, layer in tuned_layers(model):
        for module in layer.tuned.modules():
            _move_held(vars(module), device)


def _move_held(held: dict[str, Any], device: torch.device) -> None:
    """Move tensors in a dictionary, at any depth, and those of modules that a layer refers to without owning them."""
    from torch import Tensor, nn

    for key, value in held.items():
        if isinstance(value, Tensor | nn.Module):
            held[key] = value.to(device)
        elif isinstance(value, dict):
            _move_held(value, device)
