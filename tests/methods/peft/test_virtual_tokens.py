"""Virtual tokens compared with PEFT's own model, which loads what we save: logits, losses, and generated texts."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from rosa_bench import attach
from rosa_bench.models.logits.kept_logits import gather_positions
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.generate import generate
from rosa_bench.tasks.generation.task import Decoding

# PEFT uses names that transformers deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")

SMALL: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
ENDS = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
HEADS = {"mamba": None}
DECODERS = ("tiny_gpt2", "tiny_llama")
LSTM = "method.config.encoder_reparameterization_type=LSTM"
VARIANTS = [  # method, settings
    ("prompt_tuning", ()), ("p_tuning", ()), ("p_tuning", (LSTM,)), ("prefix_tuning", ()),
    ("prefix_tuning", ("method.config.prefix_projection=true",)),
]  # fmt: skip
CASES = [
    *((model, *variant) for model in DECODERS for variant in VARIANTS),
    *((model, name, ()) for model in ("tiny_roberta", "tiny_bert") for name in ("prompt_tuning", "p_tuning")),
]


Case = tuple[str, str, tuple[str, ...]]  # model, method, settings


def method_of(small: Any, case: Case) -> Any:
    model, method, overrides = case
    return small.method(model, method, "method.tokens=3", *overrides)


def attached(small: Any, case: Case) -> Any:
    """The model in float32, as PEFT keeps its vectors, with vectors that training has moved."""
    return small.move(method_of(small, case).attach(small.model(case[0]).float()))


def as_peft(small: Any, net: Any, case: Case, folder: Path) -> Any:
    """PEFT's model, made from the base model and the adapter that we save."""
    method_of(small, case).save(net, folder)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    return PeftModel.from_pretrained(small.model(case[0]).float(), str(folder)).eval()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([*case[:2], *case[2]]))
def test_peft_computes_the_same_from_what_we_save(small: Any, tmp_path: Path, case: Case) -> None:
    net, model = attached(small, case), case[0]
    peft = as_peft(small, net, case, tmp_path)
    labels = torch.tensor([0, 1, 1, 0])
    if model in DECODERS:
        labels = small.ids.where(small.mask.bool(), -100)
        labels[:, 0] = -100  # which PEFT's last vector predicts, and in ours, as without vectors, nothing does
    text = {"input_ids": small.ids, "attention_mask": small.mask}
    models = (net, peft, small.model(model).float())
    with torch.no_grad():
        ours, theirs, without = (it(**text).logits for it in models)
        losses = [it(**text, labels=labels).loss for it in models[:2]]
    if model in DECODERS:  # padding, and the vectors of prompts, have logits that mean nothing
        ours, theirs, without = (logits[:, -10:][small.mask.bool()] for logits in (ours, theirs, without))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, without, atol=1e-2)


@pytest.mark.parametrize(("kind", "name", "shape", "methods"), [
    # It calls a part of its body past it. Its embeddings are narrower than its layers, as Albert's are.
    (AutoModelForCausalLM, "opt", {"word_embed_proj_dim": 8}, ("prompt_tuning", "p_tuning", "prefix_tuning")),
    (AutoModelForSequenceClassification, "albert", {"embedding_size": 8}, ("prompt_tuning", "p_tuning")),
    (AutoModelForSequenceClassification, "distilbert", {}, ("prompt_tuning",)),  # PEFT asks for its heads
    (AutoModelForCausalLM, "bloom", {}, ("prompt_tuning",)),  # without a number of positions
    (AutoModelForSequenceClassification, "gpt2", {"pad_token_id": 0}, ("prompt_tuning",)),  # reads the last token
    (AutoModelForSequenceClassification, "bloom", {"pad_token_id": 0}, ("prompt_tuning",)),  # and does not say so
    (AutoModelForSequenceClassification, "modernbert", {"classifier_pooling": "mean", **ENDS}, ("prompt_tuning",)),
    (AutoModelForTokenClassification, "bert", {}, ("prompt_tuning",)),
    (AutoModelForQuestionAnswering, "bert", {}, ("prompt_tuning",)),
])  # fmt: skip
def test_peft_computes_the_same_in_models_that_differ(
    kind: Any, name: str, shape: dict[str, Any], methods: tuple[str, ...], tmp_path: Path
) -> None:
    """The outputs of a text are those at its own positions, of which a question's answer is two."""
    torch.manual_seed(0)
    base = kind.from_config(CONFIG_MAPPING[name](**SMALL, **shape)).eval()
    for method in methods:
        ours = attach(copy.deepcopy(base), method, tokens=3)
        (folder := tmp_path / method).mkdir()
        ours.method.save(ours.model, folder)
        theirs = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
        text = torch.arange(5, 21).reshape(2, 8)
        with torch.no_grad():
            models, mask = (ours.model.eval(), theirs, base), torch.ones_like(text)
            found, expected, without = (next(iter(it(text, attention_mask=mask).values())) for it in models)
        assert found.shape == without.shape
        torch.testing.assert_close(found, expected[:, -found.shape[1] :], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, without, atol=1e-4)


@pytest.mark.parametrize(("kind", "name", "method", "words"), [
    (AutoModelForSeq2SeqLM, "t5", "prompt_tuning", "an encoder and a decoder"),
    (AutoModelForSeq2SeqLM, "t5", "p_tuning_v2", "an encoder and a decoder"),
    (AutoModelForCausalLM, "mamba", "p_tuning", "no attention"),
    (AutoModelForImageClassification, "vit", "prompt_tuning", "for transformers of texts"),
    (AutoModelForCausalLM, "bloom", "prefix_tuning", "use method=prompt_tuning"),
])  # fmt: skip
def test_a_model_without_a_place_for_vectors_is_refused(kind: Any, name: str, method: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        attach(kind.from_config(CONFIG_MAPPING[name](**SMALL | {"num_attention_heads": HEADS.get(name, 2)})), method)


def test_vectors_are_saved_without_their_encoders_dropout(small: Any, tmp_path: Path) -> None:
    """Also in the middle of a training, which goes on with dropout."""
    dropout = ("+method.config.encoder_num_layers=2", "+method.config.encoder_dropout=0.5")
    case = ("tiny_llama", "p_tuning", (LSTM, *dropout))
    net = attached(small, case).train()
    peft = as_peft(small, net, case, tmp_path)
    assert all(module.training for module in net.modules())
    with torch.no_grad():
        ours, theirs = net.eval()(small.ids).logits, peft(input_ids=small.ids).logits[:, -10:]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_logits_are_kept_at_positions_of_the_text(small: Any, model: str, method: str, gathered: bool) -> None:
    plain = small.model(model)
    if gathered:  # as in older versions of transformers
        assert gather_positions(plain)
    net = small.move(small.method(model, method, "method.tokens=3").attach(plain))
    kept = torch.tensor([[0, 4, 9], [1, 2, 3], [0, 1, 2], [7, 8, 9]])
    with torch.no_grad():
        every, found = net(small.ids).logits, net(small.ids, logits_to_keep=kept).logits
    torch.testing.assert_close(found, every.take_along_dim(kept[..., None], 1))


# Generation


def written(net: Any, prompts: list[list[int]], beams: int, *, batch_size: int = 4, new: int = 12) -> list[str]:
    how = Decoding(beams=beams, no_repeat_ngram=0, max_new_tokens=new, length_penalty=1.0)
    options: Any = {"end": 2, "padding": 1, "batch_size": batch_size, "autocast": nullcontext}
    return generate(net, byte_tokenizer(max_length=512), prompts, how, **options)


def texts(small: Any) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(small.ids, small.mask.sum(1), strict=True)]


@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_batch_is_continued_by_the_tokens_that_peft_finds_likeliest(
    small: Any, tmp_path: Path, model: str, method: str
) -> None:
    net = attached(small, (model, method, ()))
    peft, expected = as_peft(small, net, (model, method, ()), tmp_path), []
    for prompt in texts(small):  # alone, so without padding, and without a cache
        ids = torch.tensor([prompt])
        for _ in range(12):
            with torch.no_grad():
                ids = torch.cat([ids, peft(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == 2:
                break
        [text] = byte_tokenizer(max_length=512).batch_decode(ids[:, len(prompt) :], skip_special_tokens=True)
        expected.append(text.strip())
    assert written(net, texts(small), 1) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("model", DECODERS)
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2"])
def test_beams_with_a_cache_write_what_the_whole_text_says(small: Any, model: str, method: str) -> None:
    net = small.move(small.attach(model, method, "method.tokens=3"))
    found = written(net, texts(small), 3)
    assert found == written(uncaching(net), texts(small), 3, batch_size=1)
    assert len(set(found)) > 1
    assert found != written(small.model(model), texts(small), 3)


def uncaching(net: Any) -> Any:
    """The model, whose ``generate`` computes each token from the whole text."""

    def without_cache(ids: Tensor, *, generation_config: Any, cache: Any = None, **options: Any) -> Tensor:
        assert cache is not None
        generation_config.use_cache = False
        return net.generate(ids, generation_config=generation_config, **options)

    return SimpleNamespace(
        eval=net.eval, device=net.device, config=net.config, forward=net.forward, generation_config=None,
        base_model=net.base_model, generate=without_cache,
    )  # fmt: skip


# By type, as method=peft

# As PEFT's method comparison writes such files, for a model of another size.
FILE = {
    "auto_mapping": None, "base_model_name_or_path": None, "inference_mode": False, "num_attention_heads": 24,
    "num_layers": 28, "num_transformer_submodules": 1, "num_virtual_tokens": 3, "revision": None,
    "task_type": "CAUSAL_LM", "token_dim": 3072,
}  # fmt: skip
FILES = [
    ("prompt_tuning", {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM", "tokenizer_kwargs": None}),
    ("p_tuning", {"peft_type": "P_TUNING", "encoder_hidden_size": 32, "encoder_reparameterization_type": "MLP"}),
    ("prefix_tuning", {"peft_type": "PREFIX_TUNING", "encoder_hidden_size": 3072, "init_weights": "zero"}),
]


@pytest.mark.parametrize(("method", "settings"), FILES)
def test_a_file_of_pefts_method_comparison_runs(
    small: Any, tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(FILE | settings))
    by_type = small.method("tiny_llama", "peft", f"method.adapter_config={path}")
    named = small.method("tiny_llama", method, "method.tokens=3")
    nets = [chosen.attach(small.model("tiny_llama").float()) for chosen in (by_type, named)]
    kept = [
        {key: tensor.shape for key, tensor in chosen.state(net).items()}
        for chosen, net in zip((by_type, named), nets, strict=True)
    ]
    assert kept[0] == kept[1]
    assert not (by_type.mergeable or by_type.keeps_function or by_type.merge(nets[0]))
    small.move(nets[0])
    folder = tmp_path / "saved"
    folder.mkdir()
    by_type.save(nets[0], folder)
    peft = PeftModel.from_pretrained(small.model("tiny_llama").float(), str(folder)).eval()
    with torch.no_grad():
        found, expected = nets[0](small.ids).logits, peft(input_ids=small.ids).logits[:, -10:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [None, 0, 2.5, True, "x"])
def test_a_type_with_tokens_needs_their_number(small: Any, count: Any) -> None:
    method = small.method("tiny_llama", "peft", "method.peft_type=P_TUNING", "+method.config.num_virtual_tokens=1")
    with pytest.raises(UserError, match=f"num_virtual_tokens={count} is not a number of vectors"):
        replace(method, config={} if count is None else {"num_virtual_tokens": count})


@pytest.mark.parametrize(
    "chosen", [("p_tuning",), ("peft", "method.peft_type=P_TUNING", "+method.config.num_virtual_tokens=3")]
)
def test_an_encoder_has_the_size_that_is_set_and_the_models_type(small: Any, chosen: tuple[str, ...]) -> None:
    net = small.attach("tiny_llama", *chosen, "+method.config.encoder_hidden_size=8")
    width = net.config.hidden_size
    shapes = {parameter.shape for parameter in net.get_submodule("virtual_tokens.encoder.mlp_head").parameters()}
    assert shapes == {(8, width), (8, 8), (8,), (width, 8), (width,)}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float64}


# What is refused, before a run begins


def checked(small: Any, *chosen: str) -> None:
    small.method("tiny_gpt2", *chosen).check_shapes(small.model("tiny_gpt2"))


def test_vectors_that_leave_no_room_for_text_are_refused(small: Any) -> None:
    assert small.attach("tiny_gpt2", "prompt_tuning", "method.tokens=511")
    with pytest.raises(UserError, match="tokens=512 leaves no room for text in the model's 512 positions"):
        checked(small, "prompt_tuning", "method.tokens=512")


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_text_that_grows_beyond_the_positions_is_refused_in_one_line(small: Any, method: str) -> None:
    net = small.attach("tiny_gpt2", method, "method.tokens=3")
    longest = net.config.max_position_embeddings - 3
    assert written(net, [[7] * (longest - 4)], 1, new=4)
    with pytest.raises(UserError, match=rf"^3 vectors and a text of .* use max_length={longest} or fewer[^\n]*$"):
        written(net, [[7] * (longest - 4)], 1, new=8)


def test_prefix_tuning_of_an_encoder_is_refused_with_a_way_out(small: Any) -> None:
    with pytest.raises(UserError, match=r"prefix_tuning is for decoders.*use method=p_tuning_v2"):
        small.method("tiny_roberta", "prefix_tuning").check_shapes(small.model("tiny_roberta"))


@pytest.mark.parametrize(("setting", "words"), [
    ("+method.config.num_virtual_tokens=5", "num_virtual_tokens is not for this program.*method.tokens"),
    ("+method.config.encoder_hidden_size=0", "encoder_hidden_size=0 is out of range"),
    ("+method.config.encoder_hiden_size=8", "encoder_hiden_size is not known to PEFT's P_TUNING; did you mean"),
    ("method.peft_type=LORA", "method.peft_type=LORA.*choose"),
])  # fmt: skip
def test_a_wrong_setting_is_named(small: Any, setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        checked(small, "p_tuning", setting)


def test_an_encoder_that_peft_refuses_is_refused_in_one_line(small: Any) -> None:
    with pytest.raises(UserError, match=r"^method=p_tuning: PEFT refuses it[^\n]*$"):
        small.attach("tiny_gpt2", "p_tuning", "method.config.encoder_reparameterization_type=GRU")
