"""PEFT's model with ROSA's layers: it draws subspaces, and translates between its state and LoRA's files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rosa_bench.integrations.peft.config import RosaConfig
from rosa_bench.integrations.peft.layer import RosaLinear
from rosa_bench.integrations.peft.past import exact_update
from rosa_bench.integrations.peft.saved import export, restore
from rosa_bench.layers.structure.surgery import untie
from rosa_bench.lowrank import factorize, stacks
from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import generator
from rosa_bench.training.state import reset_optimizer_state


class RosaModel(LoraModel):
    """A model in which a random subspace of each adapted weight trains, and a new one is drawn now and then."""

    def resample(
        self,
        adapter_name: str | None = None,
        *,
        step: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> list[nn.Parameter]:
        """Merge what was trained and draw new subspaces, inside the same parameters. Return the replaced parameters.

        The optimizer's state of these is set to zero in place, if the optimizer is given. ``step`` numbers the draw,
        and with the seed it determines it; without it, draws are counted. The default adapters are the active ones.

        Raises `UserError` if there is no such adapter, if one is merged, disabled or scaled, or if a weight that it
        changes trains, and ValueError if its factors contain NaN or Inf; the model is then as before.
        """
        names = self.active_adapters if adapter_name is None else [adapter_name]
        return self._resample(names, step, optimizer)

    def resample_if_due(self, step: int, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Resample before this step, counted from 0, where the adapter's ``resample_every`` says so. Return whether."""
        due = [name for name in self.active_adapters if is_due(self.peft_config[name], step)]
        self._resample(due, step, optimizer)
        return bool(due)

    def _resample(
        self, names: list[str], step: int | None, optimizer: torch.optim.Optimizer | None
    ) -> list[nn.Parameter]:
        resampled = {name: self._resamplable(name) for name in names}  # all, before the first one changes
        replaced: list[Any] = []
        for name, layers in resampled.items():
            for layer in layers:
                layer.pasts[name].add(*layer.current(name))
                layer.draws[name] += 1
                replaced += layer.current(name)
            self._draw(name, layers, layers[0].draws[name] if step is None else step)
        if optimizer is not None:
            reset_optimizer_state(optimizer, replaced, "factors")
        return replaced

    def _resamplable(self, adapter: str) -> list[RosaLinear]:
        """Return the layers that have this adapter. Raises as `resample` says if their factors cannot be replaced."""
        layers = [layer for _, layer in rosa_layers(self, adapter)]
        if not layers:
            raise UserError(
                f"there is no ROSA adapter {adapter!r} in this model; it has: {', '.join(self.peft_config)}"
            )
        if any(layer.merged or layer.disable_adapters or layer.scaling[adapter] != 1 for layer in layers):
            raise UserError(f"adapter {adapter!r} is merged, disabled or scaled; undo that before a resample")
        for layer in layers:
            layer.check_frozen()
        if not all(torch.isfinite(factor).all() for layer in layers for factor in layer.current(adapter)):
            raise ValueError(f"adapter {adapter!r} contains NaN or Inf; lower the learning rate")
        return layers

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        known: Any = self.get_model_config(model)
        config: Any = self._prepare_adapter_config(self.peft_config[adapter_name], known)
        self._check_targets(model, _maybe_include_all_linear_layers(config, model))  # pyrefly: ignore[bad-argument-type]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = [layer for _, layer in rosa_layers(model, adapter_name)]
        # With low_cpu_mem_usage the factors have no values yet: they are about to be loaded.
        if not any(layer.current(adapter_name).a.is_meta for layer in layers):
            self._draw(adapter_name, layers, 0)
            if not config.init_lora_weights:
                for layer in layers:
                    factor = layer.current(adapter_name).a
                    factor.data.add_(torch.randn_like(factor), alpha=0.1)

    @torch.no_grad()
    def _draw(self, adapter: str, layers: list[RosaLinear], number: int) -> None:
        """Split each weight, without the current factors, along new directions of its own. Equal shapes are batched."""
        config: Any = self.peft_config[adapter]
        random = generator(config.seed, "subspace", number)
        groups: dict[tuple[int, torch.device], list[RosaLinear]] = defaultdict(list)
        for layer in layers:
            groups[layer.r[adapter], layer.current(adapter).a.device].append(layer)
        for (rank, _), members in groups.items():
            for positions in stacks([layer.shape for layer in members]):
                group = [members[position] for position in positions]
                weights = torch.stack([layer.formed([adapter], current=False) for layer in group])
                _, a, b = factorize(weights, rank, select=config.select, init=config.init, generator=random)
                for layer, *drawn in zip(group, a, b, strict=True):
                    for factor, new in zip(layer.current(adapter), drawn, strict=True):
                        factor.copy_(new)
                    layer.pasts[adapter].subtract(*layer.current(adapter))
                    layer.renew()

    @staticmethod
    def _create_new_module(lora_config: RosaConfig, adapter_name: str, target: nn.Module, **kwargs: Any) -> nn.Module:
        lora_config.fan_in_fan_out = isinstance(target, Conv1D)  # PEFT warns of the wrong one when it loads the adapter
        return RosaLinear(target, adapter_name, config=lora_config, **kwargs)

    def _check_targets(self, model: nn.Module, config: RosaConfig) -> None:
        """Raise `UserError` unless every targeted layer can be adapted. Untie those that share their weight."""
        inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
        names = [name for name, _ in model.named_modules() if name and not name.startswith(inside)]
        names = [name for name in names if self._check_target_module_exists(config, name)]
        for name in names:
            ranks = config.rank_pattern or {}
            rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
            check_target(name, model.get_submodule(name), rank)
        for name in names:
            if not isinstance(model.get_submodule(name), RosaLinear):
                untie(model, name)

    def add_weighted_adapter(self, *_: Any, **__: Any) -> None:
        raise UserError("ROSA's adapters cannot be combined; save them, load them as LoRA, and combine those")

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: Any,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        layers = dict(rosa_layers(model, adapter_name))
        for name, layer in layers.items():  # PEFT goes on to save the whole weight of an adapted output layer
            state_dict[f"{name}.base_layer.weight"] = layer.original
        return export(layers, config, adapter_name, found)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        layers = dict(rosa_layers(model, adapter_name))
        try:
            return restore(layers, config, adapter_name, found)
        except UserError:
            if isinstance(getattr(model, "base_model", None), RosaModel) and is_untouched(layers, adapter_name):
                model.base_model.unload()  # the user's model is as it was
            raise


def rosa_layers(model: nn.Module, adapter: str) -> Iterator[tuple[str, RosaLinear]]:
    """Yield the names, as in a state dict, and layers that have this adapter, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, RosaLinear) and adapter in module.pasts:
            yield name.replace("_fsdp_wrapped_module.", ""), module


def is_due(config: Any, step: int) -> bool:
    """Return whether a resample comes before this step, counted from 0."""
    return bool(config.resample_every) and step > 0 and step % config.resample_every == 0


def is_untouched(layers: dict[str, RosaLinear], adapter: str) -> bool:
    """Return whether an adapter is as it was first drawn, in a model that has no other."""
    return all(
        list(layer.pasts) == [adapter] and not exact_update(layer.pasts[adapter], *layer.current(adapter)).a.any()
        for layer in layers.values()
    )


def check_target(name: str, module: nn.Module, rank: int) -> None:
    """Raise `UserError` unless ROSA can adapt this layer with this rank."""
    base: Any = module.base_layer if isinstance(module, RosaLinear) else module
    if isinstance(base, BaseTunerLayer):
        raise UserError(f"{name} has an adapter of another kind; merge or unload it first")
    if is_quantised(base):
        raise UserError(f"{name} is quantised, and ROSA writes into the weights; load the model unquantised")
    if type(base) not in {nn.Linear, Conv1D}:
        raise UserError(f"{name} is a {type(base).__name__}, but ROSA adapts Linear and Conv1D; see target_modules")
    if base.weight.is_meta:
        raise UserError(f"{name} has no weights yet (meta device); load the model first")
    rows, columns = base.weight.shape
    if rank > min(rows, columns):
        raise UserError(
            f"r={rank} does not fit {name}, a weight of {rows} x {columns}; use at most {min(rows, columns)}"
        )


def is_quantised(base: Any) -> bool:
    """Return whether a layer's weight is not made of floating-point numbers, or is packed."""
    weight = getattr(base, "weight", None)
    packed = any(hasattr(base, name) for name in ("qweight", "W_q", "quant_state")) or hasattr(weight, "quant_state")
    return packed or (isinstance(weight, Tensor) and not weight.is_floating_point())
