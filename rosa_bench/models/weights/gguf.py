"""Convert a GGUF file (llama.cpp's format for weights) to a model folder in transformers' format."""

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
    """Raise `UserError` unless the packages that transformers needs to read GGUF are installed."""
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"model={model} is a GGUF file; reading it needs {' and '.join(missing)}; "
            'run: pip install "rosa-bench[gguf]"'
        )


def convert(file: Path, folder: Path, *, quantisation: str) -> None:
    """Write the causal language model in ``file`` to ``folder``: float32 safetensors, configuration and tokenizer.

    Weights are dequantised exactly. ``quantisation`` is the type of the matrices in all layers; the embedding may have
    another, because llama.cpp stores it at a higher precision. Raises `UserError` if the file has another quantisation,
    is damaged, or contains something that transformers does not support.
    """
    from gguf import GGUFReader
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # the checks below replace its warnings
    transformers_logging.disable_progress_bar()
    with _errors_as(f"{file.name} is damaged or not a GGUF file"):
        reader = GGUFReader(file)
    layers = (it for it in reader.tensors if it.name.startswith("blk.") and len(it.shape) > 1)
    found = sorted({tensor.tensor_type.name for tensor in layers})
    if found != [quantisation]:
        raise UserError(
            f"the layers in {file.name} are {' and '.join(found) or 'missing'}, not {quantisation} as declared"
        )
    with _errors_as(f"transformers cannot read {file.name}"):
        model = _load_model(file, len(reader.tensors))
        tokenizer = _load_tokenizer(file, reader)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _errors_as(problem: str) -> Iterator[None]:
    """Turn errors caused by a damaged or unsupported file into a one-line `UserError` starting with ``problem``."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, LookupError, RuntimeError, struct.error) as error:
        raise UserError(f"{problem}: {next(iter(str(error).splitlines()), type(error).__name__)}") from error


def _load_model(file: Path, tensors: int) -> "PreTrainedModel":
    """Load the model in float32. Raises `UserError` unless its weights and the file's tensors match one to one."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with redirect_stderr(io.StringIO()):  # one progress bar cannot be disabled
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, report = loaded
    # transformers would initialise a missing weight randomly and skip one with an unknown name.
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{file.name} lacks {len(missing)} weights, such as {missing[0]}")
    if (taken := len(list(model.parameters()))) != tensors:  # tied weights count once, in the model and in the file
        raise UserError(f"{file.name} has {tensors} weights, but transformers reads {taken} of them")
    return model


def _load_tokenizer(file: Path, reader: "GGUFReader") -> "PreTrainedTokenizerBase":
    """Load the file's tokenizer with its special tokens and chat template."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(  # pyrefly: ignore[bad-assignment]
        file.parent, gguf_file=file.name
    )
    rule = reader.get_field("tokenizer.ggml.pre")
    if rule is not None and rule.contents() == "smollm":
        # Each digit is a token. transformers applies GPT-2's rule instead, which joins digits with the preceding space.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
