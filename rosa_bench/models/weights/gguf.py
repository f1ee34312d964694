"""GGUF, the form in which llama.cpp keeps weights, made once into the form in which transformers keeps them."""

import importlib.util
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosa_bench.system.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGES = ("gguf", "accelerate")


def check_packages(model: str) -> None:
    """Raise `UserError` unless the packages that transformers reads GGUF with are installed."""
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"model={model} comes as a GGUF file; reading it needs {' and '.join(missing)}: "
            'run pip install "rosa-bench[gguf]"'
        )


def convert(file: Path, folder: Path, *, quantisation: str) -> None:
    """Write the causal language model in ``file`` to ``folder``: safetensors in float32, configuration, tokenizer.

    Each weight is what its quantised form stands for, to the bit. ``quantisation`` is that of the matrices of all
    layers; the embedding may have another, as llama.cpp keeps it finer. Raises `UserError` for a file that has
    another quantisation, is damaged, or holds what transformers does not know.
    """
    from gguf import GGUFReader
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # what it would warn of is checked below
    transformers_logging.disable_progress_bar()
    with _told(f"{file.name} is damaged, or no GGUF file"):
        reader = GGUFReader(file)
    layers = (it for it in reader.tensors if it.name.startswith("blk.") and len(it.shape) > 1)
    found = sorted({tensor.tensor_type.name for tensor in layers})
    if found != [quantisation]:
        raise UserError(f"the layers in {file.name} are {' and '.join(found) or 'missing'}, not {quantisation}")
    with _told(f"transformers cannot read {file.name}"):
        model = _load_model(file, len(reader.tensors))
        tokenizer = _load_tokenizer(file, reader)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # some are written for the user alone, and would be hidden from others who share the cache


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what a file made of wrong bytes or of unknown parts gives rise to, in one line that begins with ``what``."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, LookupError, RuntimeError, struct.error) as error:
        raise UserError(f"{what}: {next(iter(str(error).splitlines()), type(error).__name__)}") from error


def _load_model(file: Path, tensors: int) -> "PreTrainedModel":
    """The model in float32. Raises `UserError` unless it takes up each of the file's tensors, and they fill it."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with redirect_stderr(io.StringIO()):  # one progress bar heeds no switch
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, report = loaded
    # transformers would draw a missing weight at random, and leave out one whose name it does not know.
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{file.name} lacks {len(missing)} weights, such as {missing[0]}")
    if (taken := len(list(model.parameters()))) != tensors:  # tied ones count once, in the model as in the file
        raise UserError(f"{file.name} has {tensors} weights, of which transformers reads {taken}")
    return model


def _load_tokenizer(file: Path, reader: "GGUFReader") -> "PreTrainedTokenizerBase":
    """The file's tokenizer, with the special tokens and the chat template that stand there."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    rule = reader.get_field("tokenizer.ggml.pre")
    if rule is not None and rule.contents() == "smollm":
        # Each digit stands alone. transformers reads this rule as GPT-2's, and joins digits with the spaces before.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
