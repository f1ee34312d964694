"""Checkpoints, from which an interrupted run resumes and ends bit for bit like an uninterrupted one.

A checkpoint is a folder of two files: tensors as safetensors, everything else as JSON. Loading it executes no code. A
digest of everything in both shows damage: a checkpoint with any bit changed is skipped.
"""

import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rosa_bench.system import processes
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.folders import new_folder, remove_unfinished
from rosa_bench.system.tensors import load_tensors
from rosa_bench.system.text.json_text import loads

log = logging.getLogger(__name__)

TENSORS, VALUES = "tensors.safetensors", "values.json"
DIGEST = "digest"
UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError)  # errors of damaged files


class MisfitError(ValueError):
    """A state belongs to another model or another run than the one that it is restored into."""


class Snapshot(NamedTuple):
    """A state: tensors by name, and values that JSON can represent."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of all tensors (names, types, shapes and bytes) and values."""
        as_read = json.loads(json.dumps(self.values))  # so that it is the same before and after a file
        found = hashlib.sha256(json.dumps(as_read, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)
        return found.hexdigest()

    def part(self, name: str) -> "Snapshot":
        """Return the part that `joined` stored under this name."""
        inside = {key.removeprefix(f"{name}."): it for key, it in self.tensors.items() if key.startswith(f"{name}.")}
        return Snapshot(inside, self.values.get(name, {}))


def joined(**parts: Snapshot) -> Snapshot:
    """Combine several states into one. `Snapshot.part` extracts them again by name."""
    tensors = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
    return Snapshot(tensors, {name: part.values for name, part in parts.items()})


class Checkpoints:
    """The checkpoints of one run, in ``<folder>/step-<n>-epochs-<n>``. Only the newest is kept.

    identity  the run's identity (`rosa_bench.config.identity.run_id.identity`); other runs' checkpoints are refused
    inputs    what the run is trained on (`rosa_bench.runs.inputs`); a checkpoint of other inputs is refused
    every_s   minimum number of seconds between two checkpoints
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, every_s: float):
        self.folder, self.every_s = folder, every_s
        self.identity = json.loads(json.dumps(identity))  # in the form in which it is read back from disk
        self.inputs: dict[str, str] = {}
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, step: int, epochs: int, snapshot: Snapshot) -> None:
        """Write a checkpoint atomically, then remove the previous one. Raises `OSError`, which names a path."""
        self._saved_at = time.monotonic()  # also if it fails: the next attempt is as far away as the next checkpoint
        if not processes.is_first():
            return
        path = self.folder / f"step-{step:09d}-epochs-{epochs:06d}"
        with new_folder(path) as new:
            save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, new / TENSORS)
            values = {"identity": self.identity, "inputs": self.inputs, **snapshot.values}
            values[DIGEST] = Snapshot(snapshot.tensors, values).digest
            (new / VALUES).write_text(json.dumps(values), encoding="utf-8")
        for other in self._found():
            if other != path:
                shutil.rmtree(other)
        self._saved_at = time.monotonic()

    def load(self, check: Callable[[Snapshot], None] = lambda _: None) -> Snapshot | None:
        """Return the newest intact checkpoint, or None. Damaged ones are named in the log and skipped.

        ``check`` raises `MisfitError` for a state that is intact but cannot belong to this run. Raises `UserError` if a
        checkpoint belongs to another run.
        """
        if processes.is_first():
            remove_unfinished(self.folder / "step-*")
        for path in reversed(self._found()):
            try:
                found = read(path)
                self._check_identity(path, found.values.pop("identity"), found.values.pop("inputs"))
                check(found)
            except UserError:
                raise
            except UNREADABLE as error:
                log.warning("skipping %s: %s", path, _in_words(error))
                continue
            return found
        return None

    def inputs_of_newest(self) -> dict[str, str]:
        """Return what the newest intact checkpoint was trained on; nothing if there is none.

        The values alone could be damaged, and a commit with a changed letter would be looked for in vain.
        """
        for path in reversed(self._found()):
            with suppress(*UNREADABLE):  # `load` says which it skips
                return dict(read(path).values["inputs"])
        return {}

    def _check_identity(self, path: Path, identity: Any, inputs: Any) -> None:
        if identity != self.identity:
            raise UserError(
                f"{path} belongs to another run ({', '.join(differences(identity, self.identity))}); move it away, "
                "or start again with resume=never"
            )
        if other := differences(inputs, self.inputs):
            raise UserError(
                f"{path} was trained on other rows or weights ({', '.join(other)}); move it away, or start again "
                "with resume=never"
            )

    def clear(self) -> None:
        """Remove all checkpoints."""
        if processes.is_first():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted(self.folder.glob("step-*"))


def read(path: Path) -> Snapshot:
    """Read a checkpoint's folder. Raises an error of one of several types if it is damaged, or has no digest."""
    values = loads((path / VALUES).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise TypeError(f"{VALUES} is not a JSON object")
    if (digest := values.pop(DIGEST, None)) is None:
        raise ValueError("it has no digest, as those of earlier versions, so it cannot be checked")
    found = Snapshot(load_tensors(path / TENSORS), values)
    if found.digest != digest:
        raise ValueError("it is damaged: its content differs from its digest")
    return found


def check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise `MisfitError` unless both have the same names, shapes and types. Copying would broadcast and convert."""
    if odd := sorted(expected.keys() ^ given.keys()):
        raise MisfitError(f"its tensor {odd[0]} is {'missing' if odd[0] in expected else 'not known to this run'}")
    for name, tensor in expected.items():
        if (found := form_of(given[name])) != (wanted := form_of(tensor)):
            raise MisfitError(f"its tensor {name} is {found}, and the run's is {wanted}")


def form_of(tensor: Tensor) -> str:
    """Return the type and shape of a tensor in words, such as ``float32 (64, 32)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _in_words(error: Exception) -> str:
    """Return one line about why a checkpoint cannot be used."""
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror or error})"
    if isinstance(error, KeyError):
        return f"it cannot be read (there is no {error})"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return f"it is damaged: {VALUES} is not JSON"
    if isinstance(error, SafetensorError):
        return f"it is damaged: {TENSORS} cannot be read ({error})"
    return str(error)


def differences(left: Any, right: Any, at: str = "") -> list[str]:
    """List where two JSON values differ: ``method.rank: 4, here 8``."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = [*left, *(key for key in right if key not in left)]
        found = (differences(left.get(key), right.get(key), f"{at}.{key}".strip(".")) for key in keys)
        return [line for lines in found for line in lines]
    return [] if left == right else [f"{at}: {left}, here {right}"]


def random_state(device: torch.device) -> Snapshot:
    """Return the state of every random generator: Python's, NumPy's, torch's and the device's."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    kind, keys, *rest = np.random.get_state()
    return Snapshot(tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]})


def restore_random_state(state: Snapshot, device: torch.device) -> None:
    """Put every random generator back into an earlier state."""
    torch.set_rng_state(state.tensors["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state.tensors["cuda"], device)
    version, internal, gauss = state.values["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state.values["numpy"]))
