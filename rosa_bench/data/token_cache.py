"""Tokenise texts once. Large sets are cached on disk under a hash of everything that the tokens depend on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow
import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rosa_bench.data.rows import Row
from rosa_bench.system.files import cache_folder

MIN_CACHED_EXAMPLES = 4096  # fewer are tokenised in well under a second
REDUNDANT = "attention_mask"  # all ones before padding, so the lengths are enough


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


def tokenise(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tokens:
    """Tokenise rows and truncate them to ``max_length`` (the longer text of a pair first).

    Sets of at least `MIN_CACHED_EXAMPLES` rows are cached on disk. The file name is a hash of the texts, the tokenizer,
    the length and the library versions, so a cached file never goes stale.
    """
    columns = zip(*(row.texts for row in rows), strict=True)
    texts = {f"text{number}": list(column) for number, column in enumerate(columns)}

    def encode(batch: Mapping[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(*(batch[name] for name in texts), truncation=True, max_length=max_length)  # pyright: ignore[reportArgumentType]
        return {name: encoded[name] for name in tokenizer.model_input_names if name in encoded and name != REDUNDANT}

    key = fingerprint(texts, tokenizer, max_length) if len(rows) >= MIN_CACHED_EXAMPLES else None
    if key is None:
        return Tokens.of(encode(texts))
    path = cache_folder() / "tokenised" / f"{key}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    return _load_cached(path, len(rows)) or _from_arrow(_tokenise_to_file(texts, encode, path, key))


def fingerprint(texts: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str | None:
    """Return the SHA-256 of everything that the tokens depend on, or None if the tokenizer cannot be serialised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # The serialised form also holds the last call's truncation and padding, which each call sets again.
    settings = json.loads(backend.to_str())
    backend_settings = {key: value for key, value in settings.items() if key not in ("truncation", "padding")}
    attributes = [type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names, max_length]
    versions = [tokenizers.__version__, transformers.__version__]
    content = json.dumps([backend_settings, attributes, versions, texts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _tokenise_to_file(texts: dict[str, list[str]], encode: Any, path: Path, key: str) -> datasets.Dataset:
    """Tokenise into ``path``. `datasets` renames a temporary file, so several processes may do this at once."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.Dataset.from_dict(texts).map(
            encode, batched=True, remove_columns=list(texts), cache_file_name=str(path), new_fingerprint=key[:32]
        )
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _load_cached(path: Path, examples: int) -> Tokens | None:
    """Load cached tokens. If the file is missing or incomplete, as after a crash, delete it and return None."""
    if not path.exists():
        return None
    try:
        found = _from_arrow(datasets.Dataset.from_file(str(path)))
        if len(found.lengths) == examples:
            return found
    except (OSError, pyarrow.ArrowException):
        pass
    path.unlink(missing_ok=True)
    return None


def _from_arrow(made: datasets.Dataset) -> Tokens:
    tables = {name: made.data.column(name).combine_chunks() for name in made.column_names}
    columns = {name: torch.from_numpy(table.flatten().to_numpy().astype("int64")) for name, table in tables.items()}
    lengths = next(iter(tables.values())).value_lengths().to_numpy()
    return Tokens(columns, torch.from_numpy(lengths.astype("int64")))
