"""Texts as tokens, made once: large sets are kept on disk under a name that says what they were made from."""

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

CACHED_FROM = 4096  # examples; fewer are tokenised in well under a second
IMPLIED = "attention_mask"  # of what a tokenizer gives: all ones, which the lengths say as well


class Tokens(NamedTuple):
    """Examples one after another: each column (tokens,) of all of them, and how long each is (examples,)."""

    columns: dict[str, Tensor]
    lengths: Tensor

    @classmethod
    def of(cls, examples: Mapping[str, Sequence[Sequence[int]]]) -> "Tokens":
        """From one list of numbers for each example, by column."""
        columns = {
            name: torch.tensor([token for example in column for token in example], dtype=torch.int64)
            for name, column in examples.items()
        }
        return cls(columns, torch.tensor([len(example) for example in next(iter(examples.values()))]))


def tokenise(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tokens:
    """The tokens of rows, cut to ``max_length`` (the longer text of a pair first). `CACHED_FROM` on, made once for all.

    The file's name is a hash of the texts, the tokenizer, the length and the libraries' versions: it never goes stale.
    """
    columns = zip(*(row.texts for row in rows), strict=True)
    texts = {f"text{number}": list(column) for number, column in enumerate(columns)}

    def encode(batch: Mapping[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(*(batch[name] for name in texts), truncation=True, max_length=max_length)  # pyright: ignore[reportArgumentType]
        return {name: encoded[name] for name in tokenizer.model_input_names if name in encoded and name != IMPLIED}

    key = fingerprint(texts, tokenizer, max_length) if len(rows) >= CACHED_FROM else None
    if key is None:
        return Tokens.of(encode(texts))
    path = cache_folder() / "tokenised" / f"{key}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = _whole(path, len(rows))
    return found or _from_arrow(_mapped(texts, encode, path, key))


def fingerprint(texts: Mapping[str, list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str | None:
    """SHA-256 of all that tokens depend on; none for a tokenizer that cannot be written down."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # What it was last asked to cut and pad to stands in it too, and is given anew each time.
    settings = json.loads(backend.to_str())
    described = {key: value for key, value in settings.items() if key not in ("truncation", "padding")}
    own = [type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names, max_length]
    libraries = [tokenizers.__version__, transformers.__version__]
    told = json.dumps([described, own, libraries, texts], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _mapped(texts: dict[str, list[str]], encode: Any, path: Path, key: str) -> datasets.Dataset:
    """`datasets` writes to a temporary file and renames it, so that processes can do this side by side."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.Dataset.from_dict(texts).map(
            encode, batched=True, remove_columns=list(texts), cache_file_name=str(path), new_fingerprint=key[:32]
        )
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _whole(path: Path, examples: int) -> Tokens | None:
    """The tokens on disk; none, and no file, where it is not there or not whole, as after a crash."""
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
