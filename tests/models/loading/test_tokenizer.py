"""Texts that a tokenizer or ``max_length`` reduces to nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.loading.tokenizer import check_texts
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError

ONE, PAIRS = [("a",), ("b",), ("b",)], [("a", "x"), ("b", "y")]


def word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows these words only."""
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


@pytest.mark.parametrize(("examples", "special", "texts"), [(ONE, 2, 1), (PAIRS, 4, 2)])
def test_the_least_max_length_leaves_a_token_of_each_text(
    examples: list[tuple[str, ...]], special: int, texts: int
) -> None:
    tokenizer = byte_tokenizer(max_length=512)
    check_texts(tokenizer, examples, max_length=special + texts)
    for length in range(special + texts):
        with pytest.raises(
            UserError, match=rf"max_length={length} leaves no room for text.*at least {special + texts}"
        ):
            check_texts(tokenizer, examples, max_length=length)


def test_texts_of_unknown_words_are_an_error() -> None:
    texts = [("dog",), ("cat",), ("two words",), ("dog [PAD]",)]
    check_texts(word_tokenizer("dog"), texts, max_length=8)
    with pytest.raises(UserError, match="maps 4 different texts to the same known tokens"):
        check_texts(word_tokenizer("bird"), texts, max_length=8)
    with pytest.raises(UserError, match="maps 2 different texts"):
        check_texts(word_tokenizer("same"), [("same dog",), ("same cat",)], max_length=8)


def test_equal_texts_are_no_sign_of_a_bad_tokenizer() -> None:
    check_texts(word_tokenizer("bird"), [("dog",)] * 5, max_length=8)


@pytest.mark.parametrize("task", ["grammar model=tiny_bert", "restaurants model=tiny_gpt2"])
def test_a_run_on_unknown_words_is_refused_before_training(
    compose: Callable[..., RunConfig],
    tiny_model: Callable,
    tmp_path: Path,
    task: str,
) -> None:
    name, _, model = task.partition(" model=")
    tiny_model(model).save_pretrained(tmp_path / "model")
    tokenizer = word_tokenizer("zqzq")
    tokenizer.eos_token = "[CLS]"
    tokenizer.save_pretrained(tmp_path / "model")
    config = compose(
        f"task={name}", f"model={model}", f"model.path={tmp_path / 'model'}", f"output_dir={tmp_path / 'out'}",
        f"results_dir={tmp_path / 'results'}", "limit_train=20", "limit_eval=20",
    )  # fmt: skip
    with pytest.raises(UserError, match="different texts to the same known tokens"):
        config.task.prepare(resolve(config, {}).context)
