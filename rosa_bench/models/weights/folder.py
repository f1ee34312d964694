"""A folder with a model: which of its files are read, and the checks that need no torch.

Nothing else in the folder is ever opened: no code, no pickled weights, no adapters, no file outside the folder.
"""

import hashlib
import re
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.digest import sha256
from rosa_bench.system.text.json_text import loads

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# Every file that a tokenizer or the generation settings can come from.
OTHERS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MOST_JSON_BYTES = 64 * 2**20


class ModelFolder(NamedTuple):
    """The files of a model: names in ``path``.

    weights  safetensors files, in the order of their names
    indexed  whether several of them are listed in an index
    others   files of the tokenizer and the generation settings
    config   the content of config.json
    """

    path: Path
    weights: tuple[str, ...]
    indexed: bool
    others: tuple[str, ...]
    config: dict[str, Any]

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of everything that is read. File names count only where they have a meaning."""
        own = [CONFIG, *([INDEX] if self.indexed else []), *self.weights]
        tokenizer = hashlib.sha256()
        for name in self.others:
            tokenizer.update(f"{name} {sha256(self.path / name)}\n".encode())
        return {"sha256": sha256(*(self.path / name for name in own)), "tokenizer": tokenizer.hexdigest()}


def model_folder(path: Path, *, called: str, model_type: str | None = None) -> ModelFolder:
    """Find and check the files of the model in ``path``; ``called`` names it in messages.

    Raises `UserError` if files are missing or unreadable, if an index names anything but safetensors in the folder, or
    if the architecture is not ``model_type``.
    """
    if not _is_file(path / CONFIG):
        raise UserError(f"{called} is not a model folder; it needs {CONFIG} and {WEIGHTS}")
    index = not _is_file(path / WEIGHTS) and _is_file(path / INDEX)
    weights = _indexed(path / INDEX) if index else (WEIGHTS,)
    for name in weights:
        if not _is_file(path / name):
            raise UserError(f"{called} has no {name}; {_advice(path)}")
    others = sorted(
        file.name for file in path.iterdir() if any(fnmatchcase(file.name, it) for it in OTHERS) and _is_file(file)
    )
    if not any(name.startswith(("tokenizer", "vocab")) or name.endswith(".model") for name in others):
        # transformers would create a tokenizer with an empty vocabulary
        raise UserError(f"{called} has no tokenizer; add tokenizer_config.json and its tokenizer files")
    config = read_object(path / CONFIG)
    found = config.get("model_type")
    if not isinstance(found, str):
        raise UserError(f"{path / CONFIG} has no model_type, so its architecture is not known")
    if model_type is not None and found != model_type:
        raise UserError(
            f"{called} is a {found}, not a {model_type} as declared; use model=auto, which takes any architecture"
        )
    return ModelFolder(path, weights, index, tuple(others), config)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `UserError`, naming the file, if there is no plain one."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_JSON_BYTES)  # what is cut off there is no JSON
        values = loads(content.decode("utf-8-sig"), parse_constant=_refused)
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON, or an integer of over 4,300 digits
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} cannot be read: it holds a {type(values).__name__}, not an object")
    return values


def _advice(path: Path) -> str:
    """Say what to do about a folder without the weights that are wanted."""
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
    if pickled:
        return f"{pickled[0]} is pickled, which could run code, and is never read; save the model as safetensors"
    return "weights must be in safetensors format"


def _indexed(path: Path) -> tuple[str, ...]:
    """Return the files that an index lists. Raises `UserError` unless all are safetensors beside it."""
    files = read_object(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise UserError(f"{path} has no weight_map from the weights to their files")
    for name in files.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UserError(f"{path} names {name!r}; only safetensors files in the same folder are read")
    return tuple(sorted(set(files.values())))


def _is_file(path: Path) -> bool:
    """Return whether this is a regular file or a link to one. A pipe in its place would be waited for."""
    try:
        return S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
