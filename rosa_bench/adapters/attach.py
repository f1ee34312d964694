"""Attach any method to any model for a training loop of your own."""

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rosa_bench.adapters.attached import LIVE, Attached, trained_by_another
from rosa_bench.adapters.base_model import BaseModel, base_model
from rosa_bench.adapters.compose import Chosen, compose_method, restored_method
from rosa_bench.adapters.kept_base import KeptBase
from rosa_bench.adapters.undo import undone_on_error
from rosa_bench.layers.adapter import adapters
from rosa_bench.layers.structure.evaluating import take_modes
from rosa_bench.methods.adapter_files import SETTINGS, read_settings
from rosa_bench.methods.base import RunLength
from rosa_bench.models.auto.structure import check_adaptable
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.training.checkpoint import form_of

FULL = 4  # bytes of a number in single precision
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)  # beside torch.compile's
log = logging.getLogger(__name__)


@torch.inference_mode(mode=False)  # a tensor made in that mode could never train
def attach(
    model: nn.Module,
    method: str = "rosa",
    *,
    protocol: str = "fair",
    length: RunLength | None = None,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    keep_base: bool = False,
    **settings: Any,
) -> Attached:
    """Attach a method to a model, in place, and return the handle that a training loop uses.

    ``method`` and ``settings`` are those of the command line: ``attach(model, "rosa", rank=8, resample_every=100,
    resample_unit="steps")``. Other settings have the method's defaults under ``protocol``. Layers are found from the
    model's own structure: attention's projections, or those that ``targets`` matches, a regular expression for the ends
    of their names. ``length`` is needed by settings in epochs or in fractions of the run; `rosa_bench.integrations`
    sets it. ``calibration`` yields batches for a data-dependent start. ``keep_base`` copies the model into the CPU's
    memory, so that `Attached.detach` can put it back.

    Raises `UserError` for a wrong setting, or a model that the method does not fit; the model is then as before.
    """
    check_plain(model)
    if half := {str(it.dtype).removeprefix("torch.") for it in model.parameters() if it.dtype.itemsize < FULL}:
        log.warning(
            "the weights are %s, and merging into them loses what is below their precision; load the model in float32 "
            "and train under autocast",
            " and ".join(sorted(half)),
        )
    chosen = compose_method(model, method, settings, protocol=protocol)
    found = attached(model, chosen, length, calibration, keep_base=keep_base)
    LIVE.add(found)
    return found


@torch.inference_mode(mode=False)
def load_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    keep_base: bool = False,
) -> Attached:
    """Attach the adapter that `Attached.save` wrote to the model that it was trained on, and return the handle.

    A method whose start depends on data needs the ``calibration`` that it was attached with, as EVA takes the ranks of
    layers from it. With ``keep_base``, as in `attach`, the next adapter can be loaded into the same model after
    `Attached.detach`.
    Raises `UserError` if the folder holds no adapter, or one of another model; the model is then as before.
    """
    path = Path(folder).expanduser()
    check_plain(model)
    check_adaptable(model)
    adapter = read_settings(path)
    method = restored_method(adapter, called=str(path))
    known = adapter.get("model")
    if known is not None:  # an adapter that a run has saved does not say
        if not isinstance(known, dict) or known.keys() != set(BaseModel._fields):
            raise UserError(f"{path / SETTINGS} cannot be read as an adapter: model")
        BaseModel(**known).check(base_model(model, head=method.head), called=str(path))
    reset = str(adapter.get("reset", "factors"))
    one_of(f"{path / SETTINGS}: reset", reset, ("factors", "all"))
    with undone_on_error(model):
        found = attached(model, Chosen(method, reset), calibration=calibration, keep_base=keep_base)
        found.load(path)
    LIVE.add(found)
    return found


def attached(
    model: nn.Module,
    chosen: Chosen,
    length: RunLength | None = None,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    *,
    keep_base: bool = False,
) -> Attached:
    """Attach a method whose settings are known. Raises `UserError` if it trains nothing."""
    if not chosen.method.trains:
        raise UserError(
            f"method={chosen.method.name} trains nothing, so a training loop has no use for it; run it by "
            "rosa-bench, or choose another method"
        )
    known, own = base_model(model, head=chosen.method.head), {id(parameter) for parameter in model.parameters()}
    kept = KeptBase(model) if keep_base else None
    modules = set(model.modules())
    with undone_on_error(model):
        whole = chosen.method.attach(model, calibration)
    whole.training = model.training  # a method may wrap the model
    take_modes(whole, modules)
    if kept is not None:
        kept.attached(whole)
    own -= {id(parameter) for parameter in chosen.method.head_parameters(whole)}
    forms = {name: form_of(parameter) for name, parameter in whole.named_parameters() if id(parameter) in own}
    return Attached(
        model=whole, method=chosen.method, base=known, reset=chosen.reset, length=length, kept=kept, forms=forms
    )


def check_plain(model: nn.Module) -> None:
    """Raise `UserError` if a method is attached to the model already, or if something is wrapped around the model."""
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is not a torch.nn.Module; give the model itself")
    is_compiled = hasattr(model, "_orig_mod")
    if is_compiled or isinstance(model, WRAPPERS):
        how = "torch.compile" if is_compiled else type(model).__name__
        raise UserError(f"the model is wrapped by {how}; attach to the model itself, and wrap attached.model then")
    if any(True for _ in adapters(model)) or trained_by_another(model):
        raise UserError("a method is attached to this model already; merge it first, or load the plain model again")
    tuners = sys.modules.get("peft.tuners.tuners_utils")  # if it was never imported, no layer is PEFT's
    if any(hasattr(it, "peft_config") or (tuners and isinstance(it, tuners.BaseTunerLayer)) for it in model.modules()):
        raise UserError(
            "an adapter of PEFT is attached to this model already; merge it first with its merge_and_unload(), or load "
            "the plain model again"
        )
