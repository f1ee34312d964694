"""Loading weights that someone else made: what is read, what is refused, and that none of it runs."""

import builtins
import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.loading import tokenizer as tokenizer_module
from rosa_bench.models.loading.pretrained import Loaded
from rosa_bench.models.spec import Decoder, Encoder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

Compose = Callable[..., RunConfig]
Load = Callable[..., Loaded]

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig
class Config(PretrainedConfig):
    model_type = "hostile"
"""


@pytest.fixture
def folder(tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> Path:
    """A folder with the body of a tiny BERT and a tokenizer."""
    body = tiny_model("tiny_bert").base_model
    assert isinstance(body, PreTrainedModel)
    body.save_pretrained(tmp_path / "model")
    byte_tokenizer(max_length=512).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def load(compose: Compose, folder: Path) -> Load:
    """``load(num_outputs=2, **changes)``: the folder, loaded with a declaration of a tiny BERT with these changes."""

    def loaded(num_outputs: int = 2, labels: tuple[str, ...] = (), **changes: Any) -> Loaded:
        spec = compose("task=grammar", "model=tiny_bert").model
        assert isinstance(spec, Encoder)
        spec = replace(spec, random=None, path=str(folder), **changes)
        torch.manual_seed(1)
        return load_encoder(spec, locate(spec), num_outputs=num_outputs, labels=labels)

    return loaded


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refusal(load: Load, **options: Any) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(UserError) as raised:
        load(**options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What is read


def test_the_weights_and_the_draws_equal_those_of_transformers(load: Load, folder: Path) -> None:
    found = load().model
    torch.manual_seed(1)
    expected = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    for (name, one), (other, two) in zip(found.named_parameters(), expected.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(one, two)
    stored = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in found.base_model.state_dict().items())


def test_code_that_comes_with_a_model_is_refused_and_never_run(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = folder.parent / "it ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    edit_json(folder / "config.json", model_type="hostile", auto_map={"AutoConfig": "code.Config"})
    monkeypatch.setattr(builtins, "input", lambda *_: "y")  # a user who says yes to everything
    assert "comes with Python code, which is never run" in refusal(load, model_type=None)
    assert not mark.exists()


@pytest.mark.parametrize("known", [True, False], ids=["known class", "unknown class"])
def test_code_that_comes_with_a_tokenizer_is_never_run(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    mark = folder.parent / "it ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    named = {} if known else {"tokenizer_class": "Hostile"}
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Config", "code.Config"]}, **named)
    edit_json(folder / "config.json", auto_map={"AutoModel": "code.Config", "AutoConfig": "code.Config"})
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    try:
        load()
    except UserError as error:
        assert "never run" in str(error)
    assert not mark.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"transformers_weights": "../other/model.safetensors"},
        {"_attn_implementation": "some/kernel"},
        {"attn_implementation": "some/kernel"},
        {"fusion_config": {"patch_embeddings": True}},
        {"num_labels": 10**9},
        {"id2label": [1], "label2id": 3},
        {"_name_or_path": "some/model"},
        {"auto_map": {"AutoModel": "some/code--x.Y"}},
        {"torch_dtype": "float16", "dtype": "float16"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_configuration_cannot_point_elsewhere(load: Load, folder: Path, settings: dict[str, Any]) -> None:
    expected = load().model
    edit_json(folder / "config.json", **settings)
    found = load().model
    assert type(found) is type(expected)
    assert found.config._attn_implementation == expected.config._attn_implementation
    for one, two in zip(found.parameters(), expected.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, two)


def test_an_adapter_in_the_folder_cannot_replace_the_model(load: Load, folder: Path) -> None:
    expected = load().model.state_dict()
    adapter = {"base_model_name_or_path": "some/model", "peft_type": "LORA", "task_type": "SEQ_CLS"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load().model.state_dict().items())


def test_quantised_weights_are_an_error(load: Load, folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "quantised" in refusal(load)


def test_a_tokenizer_can_read_only_known_files(load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("evil.json", "code.py", "vocab.txt.bak", "tokenizer.pkl"):
        (folder / name).write_text("{}")
    seen: list[set[str]] = []

    def from_pretrained(place: str, **options: Any) -> Any:
        seen.append({path.name for path in Path(place).iterdir()})
        return AutoTokenizer.from_pretrained(place, **options)

    monkeypatch.setattr(tokenizer_module, "AutoTokenizer", SimpleNamespace(from_pretrained=from_pretrained))
    loaded = load().tokenizer
    assert seen == [{"config.json", "tokenizer.json", "tokenizer_config.json"}]
    assert loaded("a b")["input_ids"] == byte_tokenizer(max_length=512)("a b")["input_ids"]
    assert loaded.name_or_path == str(folder)
    loaded.save_pretrained(folder.parent / "saved")
    assert "/" not in (folder.parent / "saved" / "tokenizer_config.json").read_text().replace("</s>", "")


# Complete weights

PREFIXES = ("module.", "_orig_mod.", "model.", "module.bert.", "base_model.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_weights_with_a_prefix_are_refused_with_its_name(load: Load, folder: Path, prefix: str) -> None:
    edit_tensors(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    message = refusal(load)
    assert "lack bert.embeddings." in message
    assert f"names there begin with {prefix.removesuffix('bert.')!r}" in message


@pytest.mark.parametrize(
    "part", ["layer.1.", "embeddings.word_embeddings", "layer.0.attention.self.query.bias", "embeddings.LayerNorm"]
)
def test_weights_that_lack_part_of_the_body_are_refused(load: Load, folder: Path, part: str) -> None:
    edit_tensors(folder, lambda tensors: {name: it for name, it in tensors.items() if part not in name})
    message = refusal(load)
    assert f"lack bert.{'encoder.' if 'layer' in part else ''}{part}" in message
    assert "names there begin with" not in message


def test_only_the_declared_head_may_be_random(load: Load, folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {name: it for name, it in tensors.items() if "pooler" not in name})
    missing = ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight")
    assert load().missing == missing
    assert "lack bert.pooler.dense.bias, bert.pooler.dense.weight;" in refusal(load, head="classifier")
    assert "lack bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias and 1 more;" in refusal(
        load, head="(?!)"
    )


def test_unused_weights_are_allowed_outside_the_blocks_only(load: Load, folder: Path) -> None:
    def with_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**{f"bert.{name}": it for name, it in tensors.items()}, "cls.predictions.bias": torch.zeros(261)}

    expected = load().model.base_model.state_dict()
    edit_tensors(folder, with_head)
    assert all(torch.equal(it, expected[name]) for name, it in load().model.base_model.state_dict().items())
    adapter = "bert.encoder.layer.0.attention.self.query.lora_A.weight"
    edit_tensors(folder, lambda tensors: {**tensors, adapter: torch.zeros(2, 32)})
    assert f"hold {adapter}, which the model in its config.json does not have" in refusal(load)


@pytest.mark.parametrize(("layers", "words"), [(1, "hold encoder.layer.1."), (3, "lack bert.encoder.layer.2.")])
def test_another_number_of_layers_is_refused(load: Load, folder: Path, layers: int, words: str) -> None:
    edit_json(folder / "config.json", num_hidden_layers=layers)
    assert words in refusal(load)


def test_a_weight_of_another_shape_is_named_with_both_shapes(load: Load, folder: Path) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    edit_tensors(folder, lambda tensors: {**tensors, name: tensors[name][:16].clone()})
    assert f"do not fit its config.json: bert.{name} is 16 x 32 and should be 64 x 32" in refusal(load)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_weights_that_are_not_plain_numbers_are_refused(load: Load, folder: Path, dtype: torch.dtype) -> None:
    name = "encoder.layer.0.attention.self.query.weight"
    edit_tensors(folder, lambda tensors: {**tensors, name: tensors[name].to(dtype)})
    assert f"not plain numbers: {name} is {str(dtype).removeprefix('torch.')}" in refusal(load)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_real_types_become_float32(load: Load, folder: Path, dtype: torch.dtype) -> None:
    edit_tensors(folder, lambda tensors: {name: it.to(dtype) for name, it in tensors.items()})
    stored = load_file(folder / "model.safetensors")
    for name, tensor in load().model.base_model.state_dict().items():
        assert torch.equal(tensor, stored[name].float())


# The declaration


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        (r"q_proj|k_proj", "attention.self.query"),  # another architecture: nothing matches
        (r"attention\.self\.query|attention\.output\.dense", "attention.self.key, "),
        (r"attention\.output\.dense", "attention.self.query"),
        (r"layer\.0\.attention\.(self\.(query|key|value)|output\.dense)", "bert.encoder.layer.*.attention"),
    ],
)
def test_an_attention_pattern_that_leaves_layers_out_is_refused(load: Load, pattern: str, left_out: str) -> None:
    message = refusal(load, attention=pattern)
    assert "does not match all attention layers of this bert; it leaves out: " in message
    assert left_out in message


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_gpt2", "tiny_llama"])
def test_random_models_are_checked_too(compose: Compose, model: str) -> None:
    task = "restaurants" if model in ("tiny_gpt2", "tiny_llama") else "grammar"
    spec = compose(f"task={task}", f"model={model}").model
    assert isinstance(spec, Encoder | Decoder)

    def loaded(**settings: Any) -> Loaded:
        changed = replace(spec, **settings)
        if isinstance(changed, Decoder):
            return load_decoder(changed, locate(changed))
        return load_encoder(changed, locate(changed), num_outputs=2)

    assert loaded().missing == ()
    with pytest.raises(UserError, match="leaves out: "):
        loaded(attention="nothing")
    with pytest.raises(UserError, match=r"261|beyond the 200 rows"):
        loaded(random={**(spec.random or {}), "vocab_size": 200})
    for key, value in {"num_hidden_layers": 10**5, "num_attention_heads": 10**9, "vocab_size": 2**31 - 1}.items():
        with pytest.raises(UserError, match=r"model\.random( has| describes| does not|\.\w+=\d+ is out of range)"):
            loaded(random={**(spec.random or {}), key: value})


# Tokenizers


def test_a_tokenizer_without_words_is_refused(load: Load, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    edit_json(folder / "tokenizer.json", model=tokenizer["model"] | {"vocab": special})
    assert f"the tokenizer in {folder} has an empty vocabulary" in refusal(load)


def test_a_tokenizer_with_tokens_beyond_the_embedding_is_refused(load: Load, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for number in (260, 261):
        vocabulary = tokenizer["model"]["vocab"] | {"zz": number}
        edit_json(folder / "tokenizer.json", model=tokenizer["model"] | {"vocab": vocabulary})
        if number < 261:
            load()
        else:
            assert "1 tokens beyond the 261 rows of the model's embedding, such as 'zz'" in refusal(load)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""), ("tokenizer.json", "{}"), ("tokenizer.json", '{"version": 5}'),
        ("tokenizer.json", "[" * 100_000), ("tokenizer_config.json", "[]"), ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'), ("tokenizer_config.json", '{"auto_map": "x"}'),
        ("tokenizer_config.json", '{"model_max_length": "x"}'), ("tokenizer_config.json", '{"model_max_length": -3}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}'), ("special_tokens_map.json", "3"),
    ],
)  # fmt: skip
def test_a_damaged_tokenizer_is_refused_in_one_line(load: Load, folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert str(folder) in refusal(load)


# Fuzzers: damaged folders are refused in one line, or load as what they are


def loads_or_refuses(load: Load, folder: Path) -> None:
    try:
        loaded = load()
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        stored = load_file(folder / "model.safetensors")
        for name, tensor in loaded.model.base_model.state_dict().items():
            assert torch.equal(tensor, stored[name].float())


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\0" * 8, b"\2" + b"\0" * 7 + b"{}", b"x" * 100])
def test_a_file_that_is_no_safetensors_is_named(load: Load, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    message = refusal(load)
    assert f"{folder / 'model.safetensors'} is damaged: " in message or f"the weights in {folder} lack " in message


HEADERS = {
    "longer than the file": lambda header: (header, 2**40),
    "deep": lambda _: (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, None),
    "overlapping": lambda header: (header.replace(b"[0,", b"[4,", 1), None),
    "beyond the end": lambda header: (header.replace(b'"data_offsets":[', b'"data_offsets":[9', 1), None),
    "unknown type": lambda header: (header.replace(b'"F32"', b'"F99"', 1), None),
    "narrower type": lambda header: (header.replace(b'"F32"', b'"F16"', 1), None),
    "huge shape": lambda header: (header.replace(b'"shape":[', b'"shape":[99999999999,', 1), None),
    "negative shape": lambda header: (header.replace(b'"shape":[', b'"shape":[-', 1), None),
    "no object": lambda _: (b"[]", None),
    "not UTF-8": lambda header: (header.replace(b"embeddings", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6", 1), None),
}  # fmt: skip


@pytest.mark.parametrize("lie", HEADERS)
def test_a_lying_header_is_refused_with_the_files_name(load: Load, folder: Path, lie: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    [size] = struct.unpack("<Q", content[:8])
    header, claimed = HEADERS[lie](content[8 : 8 + size])
    path.write_bytes(struct.pack("<Q", claimed or len(header)) + header + content[8 + size :])
    assert f"{path} is damaged: " in refusal(load)


def damaged_bytes(content: bytes, draws: random.Random) -> bytes:
    """The content, cut short or with a few bytes changed, most of them near the start."""
    if draws.random() < 0.3:
        return content[: draws.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        changed[int(len(changed) * draws.random() ** 4)] = draws.randrange(256)
    return bytes(changed)


def odd_value(draws: random.Random) -> Any:
    huge = draws.choice([10**6, 10**9, 2**31, 2**63, 10**40, -1, 0, 1, 7])
    nested: Any = {}
    for _ in range(draws.choice([1, 50])):
        nested = {"a": nested}
    return draws.choice([None, huge, -huge, 0.5, 1e300, "x", "", [], [huge], {}, nested, True, [None], "\ud800"])


def fuzz_weights(load: Load, folder: Path, seeds: range) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(damaged_bytes(content, random.Random(seed)))
        loads_or_refuses(load, folder)


def fuzz_json(load: Load, folder: Path, name: str, seeds: range) -> None:
    """Change values and bytes of a JSON file."""
    path = folder / name
    content = path.read_bytes()
    keys = [*json.loads(content), "num_labels", "quantization_config", "auto_map", "layer_types", "dtype", "unheard"]
    for seed in seeds:
        draws = random.Random(seed)
        if draws.random() < 0.3:
            path.write_bytes(damaged_bytes(content, draws))
        else:
            path.write_text(json.dumps(json.loads(content) | {draws.choice(keys): odd_value(draws)}))
        loads_or_refuses(load, folder)


JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")


def test_fuzzed_weights(load: Load, folder: Path) -> None:
    fuzz_weights(load, folder, range(40))


@pytest.mark.parametrize("name", JSON_FILES)
def test_fuzzed_json(load: Load, folder: Path, name: str) -> None:
    fuzz_json(load, folder, name, range(30))


@pytest.mark.long
def test_many_fuzzed_weights(load: Load, folder: Path) -> None:
    fuzz_weights(load, folder, range(1000, 2000))


@pytest.mark.long
@pytest.mark.parametrize("name", JSON_FILES)
def test_much_fuzzed_json(load: Load, folder: Path, name: str) -> None:
    fuzz_json(load, folder, name, range(1000, 1600))
