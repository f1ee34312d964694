"""Find a model's weights: a local folder, a pulled wheel, the hub, or a random draw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosa_bench.models.spec import Model
from rosa_bench.models.weights.wheel import is_whole, pulled_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import sha256


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    kind      ``path``, ``wheel``, ``hub`` or ``random``
    location  what transformers loads from: a folder, or a hub id; empty for a random draw
    identity  what fixes the weights: hashes for files, id and revision on the hub, the configuration for a random draw;
              ``dequantised_from`` where they were quantised
    """

    kind: str
    location: str
    identity: dict[str, Any]


def locate(model: Model) -> Source:
    """Where this machine takes the model from. Raises `UserError` for a folder that is no model."""
    if model.path is not None:
        folder = Path(model.path).expanduser()
        weights = sorted(folder.glob("*.safetensors"))
        if not weights or not (folder / "config.json").is_file():
            raise UserError(f"model.path={model.path} is not a model folder: it needs config.json and *.safetensors")
        return Source("path", str(folder), {"sha256": sha256(folder / "config.json", *weights)})
    if model.drawn_from is not None:
        return Source("random", "", {"config": model.drawn_from})
    folder = pulled_folder(model)
    if model.wheel is not None and folder is not None and is_whole(folder):
        known: dict[str, Any] = {"requirements": model.wheel.requirements, "sha256": model.wheel.sha256}
        if model.wheel.quantisation is not None:
            known["dequantised_from"] = model.wheel.quantisation
        return Source("wheel", str(folder), known)
    if model.hub is None:
        raise UserError(f"model={model.name} is not on this machine; fetch it: rosa-bench models pull {model.name}")
    return Source("hub", model.hub, {"id": model.hub, "revision": model.revision or "main"})
