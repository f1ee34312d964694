"""Locate a model's weights: a local folder, a downloaded wheel, the hub, or random initialisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosa_bench.models.spec import Model
from rosa_bench.models.weights.folder import CONFIG, model_folder
from rosa_bench.models.weights.wheel import damaged_files, is_complete, pulled_folder
from rosa_bench.system.errors import UserError


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
        found = model_folder(folder, called=f"model.path={model.path}", model_type=model.model_type)
        return Source("path", str(folder), found.identity)
    if model.drawn_from is not None:
        return Source("random", "", {"config": model.drawn_from})
    folder = pulled_folder(model)
    if model.wheel is not None and folder is not None and is_complete(folder):
        if damaged := damaged_files(folder):
            raise UserError(
                f"model={model.name} is damaged on this machine: {', '.join(damaged)} in {folder} has changed; run: "
                f"rosa-bench models pull {model.name}"
            )
        known: dict[str, Any] = {"requirements": model.wheel.requirements, "sha256": model.wheel.sha256}
        if model.wheel.quantisation is not None:
            known["dequantised_from"] = model.wheel.quantisation
        return Source("wheel", str(folder), known)
    if model.hub is None:
        raise UserError(f"model={model.name} is not on this machine; run: rosa-bench models pull {model.name}")
    return Source("hub", model.hub, {"id": model.hub, "revision": model.revision or "main"})


def stored_configuration(model: Model, source: Source) -> Path | None:
    """Return the path of the model's configuration file; None for random weights, and before the hub's is here."""
    if source.kind == "random":
        return None
    if source.kind != "hub":
        return Path(source.location, CONFIG)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.location, CONFIG, revision=model.revision or "main")
    return Path(found) if isinstance(found, str) else None
