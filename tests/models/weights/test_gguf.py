"""Convert GGUF files from wheels, tested on a small Llama written in llama.cpp's format."""

import hashlib
import io
import json
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rosa_bench.cli.commands.models import load_specs
from rosa_bench.config.files.folder import files_in
from rosa_bench.models.spec import Decoder, Wheel
from rosa_bench.models.weights.source import locate
from rosa_bench.models.weights.wheel import is_complete, pull, pulled_folder
from rosa_bench.system.errors import UserError

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

NAME = "toy.Q4_1.gguf"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "c a", "ca f", "1 9"]  # the last must never be used, because each digit is its own token
SHAPE = LlamaConfig(
    vocab_size=len(SPECIAL) + 256 + len(MERGES),
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)
OURS_OF = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


class Toy(NamedTuple):
    """A GGUF file, its dequantised weights, and the weights before quantisation, by transformers' names."""

    file: bytes
    weights: dict[str, np.ndarray]
    before: dict[str, np.ndarray]


def alphabet() -> list[str]:
    """Characters for the bytes 0 to 255 in a byte-level vocabulary: printable ones as they are, others from 256 up."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


TOKENS = [*SPECIAL, *alphabet(), *(merge.replace(" ", "") for merge in MERGES)]


def halves_interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder a projection's rows as in llama.cpp: in each head, alternate between its first and second half."""
    rows = np.arange(len(weight)).reshape(heads, 2, -1)
    return weight[rows.transpose(0, 2, 1).ravel()]


def halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo `halves_interleaved`: in each head, the even rows, then the odd ones."""
    rows = np.arange(len(weight)).reshape(heads, -1)
    return weight[np.concatenate([rows[:, ::2], rows[:, 1::2]], axis=1).ravel()]


@cache
def toy(layers: str = "Q4_1", leave_out: str = "", add: str = "") -> Toy:
    """A Llama with grouped queries, layers quantised as ``layers``, and a tied embedding in Q8_0."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    before = {name: value.numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(SHAPE.num_hidden_layers):
        names |= {f"blk.{layer}.{its}.weight": f"model.layers.{layer}.{ours}.weight" for its, ours in OURS_OF.items()}
    writer = _header()
    weights = {}
    for its, ours in names.items():
        heads = {"attn_q": 4, "attn_k": 2}.get(its.split(".")[-2])
        value = before[ours] if heads is None else halves_interleaved(before[ours], heads)
        kind = "F32" if value.ndim == 1 else "Q8_0" if its.startswith("token") else layers
        kind = gguf.GGMLQuantizationType[kind]
        raw = gguf.quants.quantize(value, kind)
        if its != leave_out:
            writer.add_tensor(its, raw, raw_dtype=kind)
        stands_for = gguf.quants.dequantize(raw, kind)
        weights[ours] = stands_for if heads is None else halves_apart(stands_for, heads)
    if add:
        writer.add_tensor(add, np.ones(64, np.float32))
    return Toy(_written(writer), weights, before)


def _header() -> Any:
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name("Toy")
    writer.add_vocab_size(SHAPE.vocab_size)
    writer.add_context_length(SHAPE.max_position_embeddings)
    writer.add_embedding_length(SHAPE.hidden_size)
    writer.add_block_count(SHAPE.num_hidden_layers)
    writer.add_feed_forward_length(SHAPE.intermediate_size)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(100000.0)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))  # control, normal
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    return writer


def _written(writer: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def wheel_of(file: bytes, name: str = NAME) -> bytes:
    """A wheel with this file, and code that fails the test if it is imported."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in (("__init__.py", b"raise RuntimeError('imported')"), (name, file)):
            archive.writestr(zipfile.ZipInfo(f"some_package/{path}"), content)  # fixed time: reproducible bytes
    return buffer.getvalue()


def model_of(wheel: bytes, **settings: Any) -> Decoder:
    declared: dict[str, Any] = {
        "requirements": ["toy==1.0"],
        "sha256": [hashlib.sha256(wheel).hexdigest()],
        "folder": "some_package",
        "gguf": NAME,
        "quantisation": "Q4_1",
    }
    return Decoder(
        name="toy",
        title="Toy",
        licence="none",
        attention="x",
        head="(?!)",
        lm_head="lm_head",
        wheel=Wheel(**{**declared, **settings}),
    )


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[list[str]]]:
    """``index(wheel)`` simulates a package index with this wheel. Returns the list of pip calls."""

    def serve(wheel: bytes) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir(parents=True)
            (folder / "toy-1.0-py3-none-any.whl").write_bytes(wheel)
            calls.append(command)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return serve


@pytest.fixture
def pulled(index: Callable) -> Path:
    """The folder of the pulled toy model."""
    wheel = wheel_of(toy().file)
    index(wheel)
    return pull(model_of(wheel))


# Valid files


def test_weights_are_dequantised_exactly(pulled: Path) -> None:
    found = load_file(pulled / "model.safetensors")
    assert set(found) == set(toy().weights)  # the embedding counts once, as the output is tied to it
    for name, expected in toy().weights.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_each_weight_is_within_half_a_quantisation_step_of_the_original(pulled: Path) -> None:
    for name, value in load_file(pulled / "model.safetensors").items():
        before = toy().before[name]
        step = 0 if before.ndim == 1 else np.ptp(before) / 15  # for 4 bits; the embedding's 8 bits are more precise
        assert np.abs(value - before).max() <= 0.55 * step, name


def test_the_model_equals_the_original(pulled: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pulled, use_safetensors=True)
    for key in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings", "hidden_act"),
        *("attention_bias", "mlp_bias", "bos_token_id", "eos_token_id", "rope_parameters"),
    ):
        assert getattr(model.config, key) == getattr(SHAPE, key), key
    assert model.config.rms_norm_eps == pytest.approx(SHAPE.rms_norm_eps)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = LlamaForCausalLM(SHAPE)
    expected.load_state_dict({name: torch.from_numpy(value) for name, value in toy().weights.items()}, strict=False)
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits)


TEXTS = ("£25, café, in 1999", "x = 10\n\n  33", "½ — “naïve”", "<|im_start|>a<|im_end|>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_is_lossless(pulled: Path, text: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(pulled)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_comes_from_the_file(pulled: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(pulled)
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == TOKENS
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [
        0,
        1,
        2,
        2,
    ]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a"
    assert tokenizer.tokenize("café") == ["caf", "Ã", "©"]
    assert tokenizer.tokenize("a  19") == ["a", "ĠĠ", "1", "9"]  # each digit alone, without the space before it


def test_nothing_is_printed(index: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    wheel = wheel_of(toy().file)
    index(wheel)
    capfd.readouterr()
    pull(model_of(wheel))
    assert capfd.readouterr() == ("", "")


def test_a_second_pull_does_nothing(index: Callable) -> None:
    wheel = wheel_of(toy().file)
    calls = index(wheel)
    model = model_of(wheel)
    folder = pull(model)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pull(model) == folder
    assert len(calls) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_the_cache_is_readable_by_others(pulled: Path) -> None:
    assert {oct(path.stat().st_mode & 0o777) for path in pulled.iterdir()} == {"0o644"}


def test_only_the_model_remains(pulled: Path, cache_folder: Path) -> None:
    assert list(cache_folder.rglob("*.gguf")) == []
    assert [path.name for path in (cache_folder / "models").iterdir()] == [pulled.name]
    assert json.loads((pulled / "config.json").read_text())["dtype"] == "float32"


def test_the_identity_names_the_quantisation(pulled: Path) -> None:
    wheel = wheel_of(toy().file)
    source = locate(model_of(wheel))
    assert (source.kind, source.location) == ("wheel", str(pulled))
    assert source.identity == {
        "requirements": ["toy==1.0"],
        "sha256": [hashlib.sha256(wheel).hexdigest()],
        "dequantised_from": "Q4_1",
    }


# Invalid files


def assert_refused(model: Decoder, cache_folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as raised:
        pull(model)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not list(cache_folder.rglob("*toy*"))  # no complete, empty or temporary folder


def test_a_wheel_with_another_hash_is_an_error(index: Callable, cache_folder: Path) -> None:
    index(wheel_of(toy().file))
    assert_refused(model_of(b"another"), cache_folder, "toy==1.0", "sha256")


@pytest.mark.parametrize(("layers", "declared"), [("Q8_0", "Q4_1"), ("Q4_1", "Q8_0"), ("F16", "Q4_1")])
def test_another_quantisation_than_declared_is_an_error(
    index: Callable, cache_folder: Path, layers: str, declared: str
) -> None:
    wheel = wheel_of(toy(layers).file)
    index(wheel)
    assert_refused(model_of(wheel, quantisation=declared), cache_folder, NAME, f"are {layers}, not {declared}")


@pytest.mark.parametrize("left", [0.001, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_an_error(index: Callable, cache_folder: Path, left: float) -> None:
    file = toy().file
    wheel = wheel_of(file[: int(left * len(file))])
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "damaged")


def test_a_file_of_another_format_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(b"PK" * 100)
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "not a GGUF file")


def test_an_unknown_architecture_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(toy().file.replace(b"llama", b"lxama"))
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "lxama")


def test_a_file_without_a_tokenizer_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(toy().file.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.xokens"))
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "transformers cannot read", "tokens")


def test_a_missing_weight_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(toy(leave_out="blk.1.ffn_up.weight").file)
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "model.layers.1.mlp.up_proj.weight")


def test_an_unknown_weight_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(toy(add="blk.0.attn_unheard_of.weight").file)
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "has 21 weights", "reads 20")


def test_a_wheel_without_the_file_is_an_error(index: Callable, cache_folder: Path) -> None:
    wheel = wheel_of(toy().file, name="other.gguf")
    index(wheel)
    assert_refused(model_of(wheel), cache_folder, NAME, "some_package")


@pytest.mark.parametrize("missing", [["gguf"], ["accelerate"], ["gguf", "accelerate"]])
def test_a_missing_package_is_an_error_before_any_download(
    index: Callable, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    wheel = wheel_of(toy().file)
    calls = index(wheel)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else object())
    assert_refused(model_of(wheel), cache_folder, "model=toy", " and ".join(missing), 'pip install "rosa-bench[gguf]"')
    assert calls == []


@pytest.mark.parametrize("given", [{"gguf": "a.gguf"}, {"quantisation": "Q4_1"}])
def test_a_gguf_file_needs_its_quantisation(given: dict[str, str]) -> None:
    with pytest.raises(UserError, match="both gguf and quantisation"):
        Wheel(requirements=["a==1"], sha256=["0" * 64], folder="x", **given)


# Declared models


def test_declared_size_of_smollm2() -> None:
    shape = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in LlamaForCausalLM(shape).parameters())
    assert load_specs(files_in("model"))["smollm2_135m"].parameters == size


def test_pulled_smollm2_predicts_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROSA_BENCH_CACHE")  # the user's real cache
    spec = load_specs(files_in("model"))["smollm2_135m"]
    folder = pulled_folder(spec)
    if folder is None or not is_complete(folder):
        pytest.skip("smollm2_135m is not on this machine")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters
    text = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        likeliest = int(model(**text).logits[0, -1].argmax())
    assert tokenizer.decode(likeliest) == " Paris"
