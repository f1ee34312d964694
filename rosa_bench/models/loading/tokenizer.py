"""Load the tokenizer of a model folder, and check that it suits the model and the texts."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rosa_bench.models.loading.configuration import reason, used
from rosa_bench.models.weights.folder import CONFIG, ModelFolder, read_object
from rosa_bench.system.errors import UserError

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PROBED_ROWS = 200


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """Load a tokenizer from copies of the folder's known files, so that no other file can be read.

    Raises `UserError`, naming the folder, if it is damaged or comes with Python code.
    """
    for name in folder.others:
        if name in SETTINGS:
            read_object(folder.path / name)  # a better message than the library's
    with tempfile.TemporaryDirectory(prefix="rosa-bench-") as temporary:
        for name in folder.others:
            shutil.copyfile(folder.path / name, Path(temporary, name))
        Path(temporary, CONFIG).write_text(json.dumps(used(folder.config)), encoding="utf-8")
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(  # pyrefly: ignore[bad-assignment]
                temporary, trust_remote_code=False, local_files_only=True
            )
            _ = tokenizer.all_special_ids, tokenizer("a")  # fails if a special token is not in the vocabulary
        except BaseException as error:  # the library raises errors of any kind, and Rust's panics are no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError):
                raise
            if "trust_remote_code" in str(error):
                raise UserError(f"the tokenizer in {folder.path} comes with Python code, which is never run") from error
            message = reason(error).replace(temporary, str(folder.path))
            raise UserError(f"the tokenizer in {folder.path} cannot be loaded: {message}") from error
    tokenizer.name_or_path = str(folder.path)
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or not longest >= 1:
        raise UserError(f"the tokenizer in {folder.path} has model_max_length={longest}, which is not a length")
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, called: str) -> None:
    """Raise `UserError` if the tokenizer has no words, or tokens without a row in the model's embedding."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(set(tokenizer.all_special_ids)):
        raise UserError(f"the tokenizer in {called} has an empty vocabulary; add its vocabulary files")
    rows: int = model.get_input_embeddings().num_embeddings  # pyrefly: ignore[bad-assignment]
    beyond = sorted(token for token, number in vocabulary.items() if number >= rows)
    if beyond:
        raise UserError(
            f"the tokenizer in {called} has {len(beyond)} tokens beyond the {rows:,} rows of the model's embedding, "
            f"such as {beyond[0]!r}; use the tokenizer that belongs to the model"
        )


def check_texts(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Sequence[str]], *, max_length: int) -> None:
    """Raise `UserError` if different examples, each one text or a pair, all become the same tokens.

    Either ``max_length`` cuts the texts off entirely, or the tokenizer does not know their characters.
    """
    different = list(dict.fromkeys(tuple(texts) for texts in examples))[:PROBED_ROWS]
    if len(different) < 2:
        return
    special = tokenizer.num_special_tokens_to_add(pair=len(different[0]) > 1)
    if max_length < special + len(different[0]):
        raise UserError(
            f"max_length={max_length} leaves no room for text besides the special tokens; use at least "
            f"{special + len(different[0])}, and better much more"
        )
    without = {tokenizer.unk_token_id, *tokenizer.all_special_ids}
    encoded = (tokenizer(*texts)["input_ids"] for texts in different)
    if len({tuple(token for token in tokens if token not in without) for tokens in encoded}) == 1:
        raise UserError(
            f"the tokenizer maps {len(different)} different texts to the same known tokens; use one that knows "
            "their language"
        )
