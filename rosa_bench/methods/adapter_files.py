"""An adapter on the disk: a folder with the tensors of a method and its settings.

``adapter.safetensors`` has the tensors by their names in the model. ``adapter.json`` has the method's class and
settings, and whatever else its writer adds. Reading them executes no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import settings_of
from rosa_bench.system.text.json_text import loads

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from rosa_bench.methods.base import Method

TENSORS, SETTINGS = "adapter.safetensors", "adapter.json"


def write_adapter(
    method: Method,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    folder: Path,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of an adapter into an existing folder. ``others`` are further values for the settings file."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
    settings = {field.name: getattr(method, field.name) for field, _ in settings_of(method)}
    base = getattr(getattr(model, "config", None), "model_type", None)  # for a person who reads the file
    adapter = {"class": type(method).__name__, "base": base, "settings": settings, **(others or {})}
    (folder / SETTINGS).write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of an adapter's settings file. Raises `UserError` if it cannot be read as one."""
    path = folder / SETTINGS
    try:
        text = path.read_text(encoding="utf-8")
        adapter = loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    if "${" in text:  # omegaconf would replace it by a value from elsewhere
        raise UserError(f"{path} contains ${{, which has no meaning in an adapter; use the file as it was saved")
    if not isinstance(adapter, dict) or not adapter.get("class") or not isinstance(adapter.get("settings"), dict):
        raise UserError(f"{path} cannot be read as an adapter: it has no class or no settings")
    return adapter


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter by name. Raises `UserError` if they cannot be read, or contain NaN or Inf."""
    from safetensors import SafetensorError

    from rosa_bench.system.tensors import check_finite, load_tensors

    try:
        found = load_tensors(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{folder / TENSORS} cannot be read: {reason}") from error
    check_finite(found, folder / TENSORS)
    return found


def unreadable(path: Path, error: Exception) -> UserError:
    """Return the error for a settings file that is not one."""
    if isinstance(error, UserError):
        return error
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path} cannot be read as an adapter: {reason}")
