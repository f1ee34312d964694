"""Locate a model's weights: a local folder, a downloaded wheel, the hub, or random initialisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosa_bench.models.spec import Model
from rosa_bench.models.weights.wheel import is_complete, pulled_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import sha256


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    kind      ``path``, ``wheel``, ``hub`` or ``random``
    location  what transformers loads from: a folder or hub id; empty for random weights
    identity  what determines the weights: hashes of files, id and revision on the hub, or the configuration of random
              weights; ``dequantised_from`` if they were quantised
    commit    commit on the hub; None until the files have been fetched (`rosa_bench.models.weights.hub`)
    """

    kind: str
    location: str
    identity: dict[str, Any]
    commit: str | None = None


def locate(model: Model) -> Source:
    """Return the source that this machine loads the model from. Raises `UserError` if there is none."""
    if model.path is not None:
        folder = Path(model.path).expanduser()
        weights = sorted(folder.glob("*.safetensors"))
        if not weights or not (folder / "config.json").is_file():
            raise UserError(f"model.path={model.path} is not a model folder; it needs config.json and *.safetensors")
        return Source("path", str(folder), {"sha256": sha256(folder / "config.json", *weights)})
    if model.drawn_from is not None:
        return Source("random", "", {"config": model.drawn_from})
    folder = pulled_folder(model)
    if model.wheel is not None and folder is not None and is_complete(folder):
        known: dict[str, Any] = {"requirements": model.wheel.requirements, "sha256": model.wheel.sha256}
        if model.wheel.quantisation is not None:
            known["dequantised_from"] = model.wheel.quantisation
        return Source("wheel", str(folder), known)
    if model.hub is None:
        raise UserError(f"model={model.name} is not on this machine; run: rosa-bench models pull {model.name}")
    return Source("hub", model.hub, {"id": model.hub, "revision": model.revision or "main"})
