"""A linear layer whose weight PEFT and ROSA share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from rosa_bench.integrations.peft.past import Past
from rosa_bench.layers.exact import Update, concatenated
from rosa_bench.layers.low_rank import low_rank_linear
from rosa_bench.layers.structure.linear import weight_of
from rosa_bench.lowrank import merge
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import is_sharded

ROUNDING = 8  # steps of the coarser type, of the largest entry, by which equal weights may differ


class RosaLinear(Linear):
    """PEFT's LoRA layer, whose base weight also holds what the draws of the active adapters have changed.

    Its weight is always a function of the original weight and of factors, ``W_0 + sum of past parts``, rounded once. So
    nothing drifts, a loaded adapter continues with the same bits, and bfloat16 loses nothing from one draw to the next.

    original  the weight before any adapter, in the base layer's own layout, on the CPU
    pasts     by adapter, what its draws have merged into the weight and taken from it
    draws     by adapter, how many draws it has made after the first
    """

    other_param_names = (*Linear.other_param_names, "pasts", "draws")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any):
        super().__init__(
            base_layer, adapter_name, config=config, is_target_conv_1d_layer=isinstance(base_layer, Conv1D), **kwargs
        )
        self.fan_in_fan_out = self.is_target_conv_1d_layer
        self.original: Tensor = base_layer.weight.detach().to("cpu", copy=True)  # pyrefly: ignore[not-callable]
        self._held: list[tuple[str, float]] | None = []  # pasts in the base weight with their scales; None: unknown

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:  # noqa: ARG002 - PEFT's
        if not hasattr(self, "pasts"):
            self.pasts: dict[str, Past] = {}
            self.draws: dict[str, int] = {}
        self.pasts[adapter_name], self.draws[adapter_name] = Past(), 0
        super().update_layer(adapter_name, r, lora_alpha=r, config=config, **kwargs)

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        weight: Any = self.get_base_layer()
        return weight_of(weight).shape

    def current(self, adapter: str) -> Update:
        """Return an adapter's factors that train."""
        return Update(self.lora_B[adapter].weight, self.lora_A[adapter].weight)  # pyrefly: ignore[bad-argument-type]

    def exact(self, adapter: str, current: Update | None = None) -> Update:
        """Return an adapter's whole update as factors on the CPU; the current ones come first. They may be given."""
        a, b = (factor.detach().cpu() for factor in current or self.current(adapter))
        return concatenated([Update(a, b), *self.pasts[adapter].parts])

    @torch.no_grad()
    def formed(self, adapters: list[str], *, current: bool) -> Float[Tensor, "out in"]:
        """Return the weight under these adapters, in float64 on the device, with or without their current factors."""
        base = self.get_base_layer()
        weight = self.original.to(base.weight.device).double()  # pyrefly: ignore[no-matching-overload]
        weight = weight.mT if self.fan_in_fan_out else weight
        for adapter in adapters:
            parts = [*self.pasts[adapter].parts, *([self.current(adapter)] if current else [])]
            for a, b in parts:
                weight = merge(weight, a.to(weight), b.to(weight), self.scaling[adapter])
        return weight

    def settle(self) -> None:
        """Let the base weight hold the pasts of the active adapters and no others, unless adapters are merged."""
        wanted = [(name, self.scaling[name]) for name in self.active_adapters if name in self.pasts]
        wanted = [(name, scale) for name, scale in wanted if self.pasts[name].parts]
        if not self.merged and wanted != self._held:
            self._write(self.formed([name for name, _ in wanted], current=False))
            self._held = wanted

    def restore(self) -> None:
        """Let the base weight be the original again, to the bit."""
        with torch.no_grad():
            self.get_base_layer().weight.copy_(self.original)  # pyrefly: ignore[not-callable]
        self._held = []

    def renew(self) -> None:
        """Compute the base weight again, because a past has changed."""
        self._held = None
        self.settle()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("adapter_names") is not None:
            raise UserError("ROSA's adapters change the weights, so one batch cannot mix them; use set_adapter")
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            base = self.get_base_layer()
            return functional_call(base, {"weight": self.original.to(base.weight)}, (x, *args), kwargs)  # pyrefly: ignore[no-matching-overload]
        self.settle()
        adapter = self._alone()
        if adapter is None or args or kwargs or not self._is_uniform(adapter, x):
            return super().forward(x, *args, **kwargs)
        base = self.get_base_layer()
        a, b = self.current(adapter)
        return low_rank_linear(x, weight_of(base), a, b, base.bias, scale=self.scaling[adapter])  # pyrefly: ignore[bad-argument-type]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.pasts]
        if not adapter_names:
            return
        weight = self.formed([*self.merged_adapters, *adapter_names], current=True)
        if safe_merge and not torch.isfinite(weight).all():
            raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter_names[0]} seems to be broken")
        self._write(weight)
        self.merged_adapters += adapter_names

    def unmerge(self) -> None:
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        self.renew()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the base layer, with the adapters merged, or as it was before them. PEFT calls it."""
        if merge:
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        if not (merge and self.merged):
            self.restore()
        return self.get_base_layer()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return an adapter's whole update, in the layout of the base weight."""
        like = self.lora_B[adapter].weight
        delta = self.exact(adapter).delta() * self.scaling[adapter]
        return (delta.mT if self.fan_in_fan_out else delta).to(like)

    def check_frozen(self) -> None:
        """Raise `UserError` if the base weight trains: what it learns would be lost when it is formed again."""
        if self.get_base_layer().weight.requires_grad:  # pyrefly: ignore[missing-attribute]
            raise UserError("ROSA forms its layers' weights again from the original ones, and one trains; freeze it")

    @torch.no_grad()
    def _write(self, weight: Tensor) -> None:
        self.check_frozen()
        # In place, so that a backward pass that still needs the old weight fails instead of being wrong.
        self.get_base_layer().weight.copy_(weight.mT if self.fan_in_fan_out else weight)  # pyrefly: ignore[not-callable]

    def _load_from_state_dict(  # noqa: PLR0917 - torch passes them by position
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Refuse a base weight with other draws, or of another model: the past is in adapters' files alone."""
        name = f"{prefix}base_layer.weight"
        if name in state_dict and not is_same(self.get_base_layer().weight, state_dict[name]):  # pyrefly: ignore[bad-argument-type]
            self._held = None
            error_msgs.append(
                f"{name} has draws that this model has not made, or is of another model; ROSA's draws are saved by "
                "save_pretrained, and loaded by PeftModel.from_pretrained or load_adapter"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _alone(self) -> str | None:
        """Return the active adapter if there is exactly one here and it is not merged."""
        active = [name for name in self.active_adapters if name in self.pasts]
        return active[0] if len(active) == 1 and not self.merged else None

    def _is_uniform(self, adapter: str, x: Tensor) -> bool:
        """Return whether our kernel computes the same: one type throughout, no dropout, no hooks, a frozen weight."""
        weight: Any = self.get_base_layer().weight
        modules = (self.get_base_layer(), self.lora_A[adapter], self.lora_B[adapter])
        dropout: Any = self.lora_dropout[adapter]
        return (
            not weight.requires_grad
            and all(tensor.dtype == weight.dtype for tensor in self.current(adapter))
            and (x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type))
            and (isinstance(dropout, nn.Identity) or not dropout.training)
            and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        )


@torch.no_grad()
def is_same(weight: Tensor, given: Tensor) -> bool:
    """Return whether two weights are the same up to rounding. True if one has no values here, or another shape."""
    if given.shape != weight.shape or given.is_meta or weight.is_meta or is_sharded(given) or is_sharded(weight):
        return True
    step = max(torch.finfo(it.dtype).eps for it in (given, weight))
    given, now = given.to(weight.device).double(), weight.double()
    return torch.allclose(given, now, rtol=0, atol=ROUNDING * step * now.abs().max().item())
