"""The handle of a method that is attached to a model, for a training loop of your own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from rosa_bench.adapters.base_model import BaseModel
from rosa_bench.adapters.compose import restored_method
from rosa_bench.adapters.kept_base import KeptBase
from rosa_bench.adapters.unknown_length import UNKNOWN
from rosa_bench.layers.structure.evaluating import take_modes
from rosa_bench.methods.adapter_files import SETTINGS, read_settings, read_tensors, write_adapter
from rosa_bench.methods.base import Changed, Groups, Method, RunLength
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.folders import check_replaceable, new_folder
from rosa_bench.system.setting import settings_of
from rosa_bench.system.tensors import check_finite
from rosa_bench.training.checkpoint import MisfitError, check_tensors, form_of
from rosa_bench.training.state import follow


@dataclass(kw_only=True, repr=False, eq=False)
class Attached:
    """A method attached to ``model``: what a training loop calls, by the contract that `rosa_bench.training` uses too.

        attached = rosa_bench.attach(model, "rosa", rank=8, resample_every=100, resample_unit="steps")
        optimizer = attached.optimizer(lr=2e-3)
        for step, batch in enumerate(batches):
            attached.before_step(step, optimizer)
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    model   the model to train: the one that was given, unless the method wraps it
    method  the method with its settings
    base    the model before the method was attached
    reset   which optimizer state a resample clears: of the replaced ``factors``, or ``all``
    length  the length of the run, if known: settings in epochs or in fractions of the run need it
    kept    the model before the method was attached, if it was kept for `detach`
    forms   types and shapes of the plain model's parameters that it still has, without the head's, by name
    """

    model: nn.Module
    method: Method
    base: BaseModel
    reset: str = "factors"
    length: RunLength | None = None
    kept: KeptBase | None = None
    forms: dict[str, str] = field(default_factory=dict)
    merged: bool = False
    detached: bool = False

    def __repr__(self) -> str:
        if not self.is_attached:
            what = "detached from" if self.detached else "merged into"
            return f"Attached(method={self.method.name}, {what} {type(self.model).__name__})"
        trained = sum(parameter.numel() for parameter in self.trainable_parameters)
        return f"Attached(method={self.method.name}, trains {trained:,} parameters of {type(self.model).__name__})"

    @property
    def is_attached(self) -> bool:
        """Whether the method still trains the model: it is neither merged nor detached."""
        return not (self.merged or self.detached)

    @property
    def trainable_parameters(self) -> list[nn.Parameter]:
        """All parameters that train at any time, in the model's order."""
        return [parameter for group in self.method.parameter_groups(self.model) for parameter in group["params"]]

    def parameter_groups(self, lr: float | None = None) -> Groups:
        """Return groups of parameters for an optimizer. With ``lr``, each has its learning rate."""
        self._check_attached()
        groups = self.method.parameter_groups(self.model)
        for group in groups if lr is not None else []:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return groups

    def optimizer(
        self, lr: float, kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW, **options: Any
    ) -> torch.optim.Optimizer:
        """Return ``kind``'s optimizer of the trained parameters, or the method's own if it brings one."""
        return self.method.optimizer(self.parameter_groups(lr), lambda groups: kind(groups, lr=lr, **options))

    def is_due(self, step: int) -> bool:
        """Return whether the method changes the model before this optimizer step, counted from 0."""
        self._check_attached()
        return self.method.is_due(step, self._length)

    def before_step(
        self, step: int, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor] | None = None
    ) -> Changed | None:
        """Let the method change the model if that is due, and the optimizer with it. Return what has changed.

        Call it before every optimizer step, counted from 0. ``loss`` computes the loss of the coming batch, for methods
        that ask for its gradient. Raises ValueError if the model cannot be changed, as with weights that are NaN, and
        `UserError`, before any change, if the optimizer lacks what is to train later.
        """
        if not self.is_due(step):
            return None
        self.check_complete(optimizer)
        changed = self.method.before_step(self.model, step, length=self._length, loss=loss)
        follow(optimizer, changed, trainable=self.trainable_parameters, reset=self.reset)
        return changed

    def lr_factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, for methods that warm up again after a change."""
        return self.method.lr_factor(step, self._length)

    def add_penalty(self) -> None:
        """Add the gradient of the method's penalty, if it has one, to those of the parameters."""
        penalty = self.method.penalty(self.model)
        if penalty is not None:
            penalty.backward()

    def after_backward(self) -> None:
        """Let the method act on the gradients. Call it before the optimizer's step; most methods do nothing."""
        self.method.after_backward(self.model)

    @torch.inference_mode(mode=False)
    def merge(self) -> nn.Module:
        """Turn the model into plain layers with the same function, all of whose parameters train, and return it.

        Raises `UserError` if the method cannot be merged, or its tensors contain NaN or Inf; nothing is merged then.
        """
        check_finite(self.state_dict(), "the adapter", "load an earlier one, or train again with a lower lr")
        modules = set(self.model.modules())
        if not self.method.mergeable or not self.method.merge(self.model):
            raise UserError(f"method={self.method.name} cannot be merged; save() keeps it as an adapter")
        take_modes(self.model, modules)
        self.merged = True
        return self.model.requires_grad_(True)

    @torch.inference_mode(mode=False)
    def detach(self) -> nn.Module:
        """Put the model back as it was before the method was attached, to the bit, and return it. It may be merged.

        What you did to it since stays: its device, training mode and hooks. Raises `UserError` unless the method was
        attached with ``keep_base=True``, or if another one has been attached to the merged model since.
        """
        if self.detached:
            raise UserError("this method is detached already; attach it again to go on")
        if self.kept is None:
            raise UserError(
                "the model from before is not known; attach with keep_base=True, which copies it into the CPU's "
                "memory, or load the plain model again"
            )
        if trained_by_another(self.model, apart_from=self):
            raise UserError("another method was attached to this model since; detach or merge that one first")
        plain = self.kept.put_back(self.model)
        self.model, self.kept, self.detached = plain, None, True
        return plain

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors that training can change, by name, and the head's: not copies."""
        self._check_attached()
        head = {id(parameter) for parameter in self.method.head_parameters(self.model)}
        of_head = {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in head}
        return {**of_head, **self.method.state(self.model)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put the tensors of `state_dict` back. Raises `UserError` if they do not fit, before any is changed."""
        own = self.state_dict()
        try:
            check_tensors(own, state)
        except MisfitError as error:
            raise UserError(f"this state is of another model or method: {error}") from error
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter into a new folder, atomically: tensors as safetensors, settings as JSON.

        Raises `UserError` if the folder exists, unless ``overwrite`` and it holds an adapter, which is then deleted, or
        if a tensor contains NaN or Inf, or if no model would fit the adapter, because parameters have other shapes or
        types by now. Nothing is written then.
        """
        path = Path(folder).expanduser()
        tensors = self.state_dict()
        self._check_forms()
        check_finite(tensors, "the adapter", "nothing was written; train again with a lower lr")
        check_replaceable(
            path, overwrite=overwrite, marks=(SETTINGS,), remedy="choose another folder, or use overwrite=True"
        )
        with new_folder(path) as new:
            more = {"reset": self.reset, "frozen": self.frozen, "model": self.base._asdict()}
            write_adapter(self.method, self.model, tensors, new, more)

    def load(self, folder: str | Path) -> None:
        """Load the tensors of an adapter of the same method and model. Raises `UserError` for any other.

        Settings that decide what the layers compute must be the same. When ROSA and LoRA draw, and from which seed, may
        differ: training goes on as this method says.
        """
        path = Path(folder).expanduser()
        adapter = read_settings(path)
        stored, own = deciding(restored_method(adapter, called=str(path))), deciding(self.method)
        free = {*PATTERNS, *self.method.later}
        if differing := [key for key, value in own.items() if stored.get(key) != value and key not in free]:
            key = "name" if "name" in differing else differing[0]
            raise UserError(
                f"{path} was saved with {key}={stored.get(key)}, and this method has {key}={own[key]}; attach with the "
                "same settings, or call load_adapter, which reads them"
            )
        if (known := adapter.get("model")) is not None and known != self.base._asdict():
            raise UserError(f"{path} is an adapter of another model; load it into the model that it was trained on")
        frozen = adapter.get("frozen") or []  # an adapter that a run has saved does not say
        self.check_frozen(frozen, called=str(path / SETTINGS))
        buffers = dict(self.model.named_buffers()) if known is None else {}  # a run saves only what it has trained
        unchanged = {name: tensor for name, tensor in self.state_dict().items() if name in buffers}
        self.load_state_dict({**unchanged, **read_tensors(path)})
        self.freeze(frozen)

    @property
    def frozen(self) -> list[str]:
        """Names of the parameters that train at other times, but not now."""
        return [name for name, parameter in self._trained_by_name.items() if not parameter.requires_grad]

    def check_frozen(self, names: Any, *, called: str) -> None:
        """Raise `UserError` unless ``names``, read from the file ``called``, are names of parameters that train."""
        known = self._trained_by_name
        if not isinstance(names, list) or not all(isinstance(name, str) and name in known for name in names):
            raise UserError(f"{called} cannot be read as an adapter: frozen must be a list of parameters that train")

    def freeze(self, names: Iterable[str]) -> None:
        """Let all trained parameters train except those with these names."""
        idle = set(names)
        for name, parameter in self._trained_by_name.items():
            parameter.requires_grad_(name not in idle)

    def renew_groups(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer whose state was loaded use the method's own tensors again, as a projected one does."""
        for group, own in zip(optimizer.param_groups, self.method.parameter_groups(self.model), strict=False):
            group.update({key: value for key, value in own.items() if key != "params"})

    def check_complete(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UserError` if parameters take turns, and an optimizer was made of those that train at one time."""
        if not self.method.takes_turns:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(parameter) not in held for parameter in self.trainable_parameters):
            raise UserError(
                f"method={self.method.name} trains other parameters later, which this optimizer lacks; make it by "
                "attached.optimizer(lr=...), and for Trainer say optimizers=(attached.optimizer(lr=...), None)"
            )

    def _check_forms(self) -> None:
        # Sharded elsewhere, a parameter may be empty here.
        now = {name: form_of(parameter) for name, parameter in self.model.named_parameters() if parameter.numel()}
        for name, was in self.forms.items():
            if (found := now.get(name, was)) != was:
                raise UserError(
                    f"{name} is {found}, and was {was} when the method was attached, so no model would fit this "
                    "adapter; make such changes before attaching, or merge and save the whole model"
                )

    def _check_attached(self) -> None:
        if not self.is_attached:
            how = "detached" if self.detached else "merged"
            raise UserError(f"this method is {how} already; attach it again to go on")

    @property
    def _trained_by_name(self) -> dict[str, nn.Parameter]:
        trained = {id(parameter) for parameter in self.trainable_parameters}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in trained}

    @property
    def _length(self) -> RunLength:
        return UNKNOWN if self.length is None else self.length


def deciding(method: Method) -> dict[str, Any]:
    """Return the settings that decide what a method does, as JSON values."""
    return {"class": type(method).__name__} | {
        field.name: getattr(method, field.name) for field, known in settings_of(method) if known.identity
    }


PATTERNS = ("targets", "attention", "head", "lm_head", "fused", "parts")  # different ones can name the same layers
LIVE: WeakSet[Attached] = WeakSet()  # the handles that somebody still holds


def trained_by_another(model: nn.Module, apart_from: Attached | None = None) -> bool:
    """Return whether a handle whose method is still attached trains a parameter of the model."""
    own = {id(parameter) for parameter in model.parameters()}
    others = [it for it in LIVE if it is not apart_from and it.is_attached]
    return any(id(parameter) in own for other in others for parameter in other.trainable_parameters)
