from collections.abc import Sequence

import pytest

from rosa_bench.models.weights.hub import files_of
from rosa_bench.system.errors import UserError

# As in FacebookAI/roberta-base, openai-community/gpt2 and sentence-transformers/all-MiniLM-L6-v2.
UNWANTED = (
    ".gitattributes", "README.md", "dict.txt", "flax_model.msgpack", "pytorch_model.bin", "rust_model.ot",
    "tf_model.h5", "64.tflite",
    "onnx/config.json", "onnx/model.onnx", "onnx/model.safetensors", "openvino/openvino_model.bin",
    "modeling_custom.py", "tokenizer.py", "adapter_model.safetensors", "consolidated.safetensors",
    "model.fp16.safetensors", "pytorch_model.bin.index.json", "1_Pooling/config.json", "sub/vocab.txt",
)  # fmt: skip
TOKENIZER = ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("weights", [("model.safetensors",), (INDEX, *SHARDS)])
def test_only_configuration_tokenizer_and_safetensors_are_chosen(weights: Sequence[str]) -> None:
    wanted = ["config.json", *TOKENIZER, *weights]
    assert files_of("a/b", [*UNWANTED, *wanted]) == sorted(wanted)


def test_whole_weights_are_preferred_to_shards() -> None:
    found = files_of("a/b", ["config.json", "model.safetensors", *SHARDS])
    assert found == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("paths", [
    (), UNWANTED, ("config.json", *UNWANTED), ("model.safetensors",), ("config.json", "pytorch_model.bin"),
    ("config.json", "sub/model.safetensors"), ("sub/config.json", "model.safetensors"),
])  # fmt: skip
def test_a_repository_without_safetensors_or_configuration_is_refused(paths: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"a/b on the hub is not a model in safetensors format"):
        files_of("a/b", paths)


@pytest.mark.parametrize("absent", SHARDS)
def test_missing_shards_are_an_error(absent: str) -> None:
    with pytest.raises(UserError, match="a/b has 2 of the 3 files of its weights"):
        files_of("a/b", ["config.json", INDEX, *(shard for shard in SHARDS if shard != absent)])
