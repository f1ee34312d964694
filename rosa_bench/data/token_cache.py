"""Tokenise texts once. Large sets are cached on disk under a hash of everything that the tokens depend on."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.rows import Row
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.files.places import cache_folder

log = logging.getLogger(__name__)

MIN_CACHED_EXAMPLES = 4096  # fewer are tokenised in well under a second
BATCH = 1000  # examples tokenised at a time, to bound the memory that lists of integers take
REDUNDANT = "attention_mask"  # all ones before padding, so the lengths are enough
LENGTHS = "lengths"
CHECKSUM, COLUMNS = "sha256", "columns"  # metadata of a cached file


class Tokens(NamedTuple):
    """Concatenated examples: columns of shape (tokens,), and the length of each example, shape (examples,)."""

    columns: dict[str, Tensor]
    lengths: Tensor

    @classmethod
    def of(cls, examples: Mapping[str, Sequence[Sequence[int]]]) -> "Tokens":
        """Make from columns that hold one list of integers per example."""
        columns = {
            name: torch.tensor([token for example in column for token in example], dtype=torch.int64)
            for name, column in examples.items()
        }
        return cls(columns, torch.tensor([len(example) for example in next(iter(examples.values()))]))

    @classmethod
    def joined(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Join examples with the same columns."""
        columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
        return cls(columns, torch.cat([part.lengths for part in parts]))


def tokenise(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tokens:
    """Tokenise rows and truncate them to ``max_length`` (the longer text of a pair first).

    Sets of at least `MIN_CACHED_EXAMPLES` rows are cached on disk. The file name is a hash of the texts, the tokenizer,
    the length and the library versions, so a cached file never goes stale. A checksum in it is compared when it is
    read. A file that is damaged is replaced, and one that cannot be written is left out, both with a warning.
    """
    columns = zip(*(row.texts for row in rows), strict=True)
    texts = {f"text{number}": list(column) for number, column in enumerate(columns)}
    key = fingerprint(texts, tokenizer, max_length) if len(rows) >= MIN_CACHED_EXAMPLES else None
    if key is None:
        return _encode(texts, tokenizer, max_length)
    try:
        path = cache_folder() / "tokenised" / f"{key}.safetensors"
    except OSError as error:
        log.warning("tokens are not cached, because %s cannot be used: %s", error.filename, error.strerror)
        return _encode(texts, tokenizer, max_length)
    found = _load(path, key)
    if found is None:
        found = _encode(texts, tokenizer, max_length)
        _store(path, found, key)
    return found


def fingerprint(texts: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str | None:
    """Return the SHA-256 of everything that the tokens depend on, or None if the tokenizer cannot be serialised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # The serialised form also holds the last call's truncation and padding, which each call sets again.
    settings = json.loads(backend.to_str())
    backend_settings = {key: value for key, value in settings.items() if key not in ("truncation", "padding")}
    names = ("truncation_side", "model_input_names", "split_special_tokens")
    attributes = [type(tokenizer).__name__, *(getattr(tokenizer, name) for name in names), max_length]
    versions = [tokenizers.__version__, transformers.__version__]
    content = json.dumps([backend_settings, attributes, versions, texts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _encode(texts: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    parts = []
    for first in range(0, len(texts["text0"]), BATCH):
        batch = [column[first : first + BATCH] for column in texts.values()]
        encoded = tokenizer(*batch, truncation=True, max_length=max_length)
        names = [name for name in tokenizer.model_input_names if name in encoded and name != REDUNDANT]
        parts.append(Tokens.of({name: encoded[name] for name in names}))
    return Tokens.joined(parts)


def _store(path: Path, tokens: Tokens, key: str) -> None:
    """Write tokens, with their checksum, through a temporary file. Several processes may do this at once."""
    tensors = {name: tensor.int() for name, tensor in {**tokens.columns, LENGTHS: tokens.lengths}.items()}
    metadata = {CHECKSUM: _checksum(tokens, key), COLUMNS: json.dumps(list(tokens.columns))}
    try:
        write_atomic(path, safetensors.torch.save(tensors, metadata))
    except OSError as error:
        log.warning("tokens are not cached, because %s cannot be written: %s", path.parent, error.strerror or error)


def _load(path: Path, key: str) -> Tokens | None:
    """Load cached tokens. Return None if there are none, or if the file is damaged or cannot be read."""
    try:
        path.stat()
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies of their own, so that what is compared is what is used.
            tensors = {name: file.get_tensor(name).long() for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = Tokens({name: tensors[name] for name in json.loads(metadata[COLUMNS])}, tensors[LENGTHS])
        if _checksum(found, key) == metadata[CHECKSUM]:
            return found
        reason = "its checksum differs"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        log.warning("the cached tokens in %s cannot be read: %s; tokenising again", path, error.strerror or error)
        return None
    # Damage can be in the header: a missing or wrong entry, or one that is not JSON.
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
    log.warning("the cached tokens in %s are damaged (%s); tokenising again", path, reason)
    return None


def _checksum(tokens: Tokens, key: str) -> str:
    """Return the SHA-256 of tokens and of the key that they belong to."""
    digest = hashlib.sha256(json.dumps([key, list(tokens.columns)]).encode())
    for tensor in (*tokens.columns.values(), tokens.lengths):
        digest.update(json.dumps(list(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
