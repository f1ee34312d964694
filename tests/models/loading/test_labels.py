"""Class names of stored heads, against the predictions that the names stand for."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.loading.labels import order_of, reorder_outputs, stored_labels
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

NAMES = ("entailment", "neutral", "contradiction")
TEXTS = torch.randint(5, 261, (20, 6), generator=torch.Generator().manual_seed(0))

Saved = Callable[..., Path]
Load = Callable[..., PreTrainedModel]


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Make the classes differ between texts."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


@pytest.fixture(params=["tiny_bert", "tiny_roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def saved(tiny_model: Callable[..., PreTrainedModel], architecture: str, tmp_path: Path) -> Saved:
    """``saved(names)``: the folder of a fine-tuned model whose outputs have these names, in order."""

    def save(names: tuple[str, ...] | None) -> Path:
        model = spread(tiny_model(architecture, num_outputs=3))
        if names is not None:
            model.config.id2label = dict(enumerate(names))
            model.config.label2id = {name: number for number, name in enumerate(names)}
        model.save_pretrained(tmp_path)
        byte_tokenizer(max_length=512).save_pretrained(tmp_path)
        return tmp_path

    return save


@pytest.fixture
def load(compose: Callable[..., RunConfig], architecture: str) -> Load:
    def loaded(folder: Path, labels: tuple[str, ...] = NAMES) -> PreTrainedModel:
        spec = compose("task=grammar", f"model={architecture}").model
        assert isinstance(spec, Encoder)
        spec = replace(spec, random=None, path=str(folder))
        return load_encoder(spec, locate(spec), num_outputs=len(labels), labels=labels).model.eval()

    return loaded


def answers(model: PreTrainedModel) -> list[str]:
    """The names that a user of the model reads."""
    with torch.inference_mode():
        return [(model.config.id2label or {})[number].casefold() for number in model(TEXTS).logits.argmax(-1).tolist()]


@pytest.mark.parametrize("names", list(itertools.permutations(NAMES)))
def test_a_head_is_put_into_the_tasks_order_by_name(saved: Saved, load: Load, names: tuple[str, ...]) -> None:
    folder = saved(names)
    expected = answers(AutoModelForSequenceClassification.from_pretrained(folder).eval())
    assert len(set(expected)) > 1
    found = load(folder)
    assert answers(found) == expected
    assert found.config.id2label == dict(enumerate(NAMES))
    assert found.config.label2id == {name: number for number, name in enumerate(NAMES)}


def test_case_spaces_and_punctuation_do_not_matter(saved: Saved, load: Load) -> None:
    folder = saved(("CONTRADICTION", "Neutral", " entail-ment"))
    expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()(TEXTS).logits
    assert torch.equal(load(folder)(TEXTS).logits, expected[:, [2, 1, 0]])


@pytest.mark.parametrize("names", [None, ("LABEL_0", "LABEL_1", "LABEL_2"), ("LABEL_2", "LABEL_1", "LABEL_0")])
def test_a_head_without_names_keeps_its_order(saved: Saved, load: Load, names: tuple[str, ...] | None) -> None:
    folder = saved(names)
    expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()(TEXTS).logits
    assert torch.equal(load(folder)(TEXTS).logits, expected)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("entailment", "neutral", "other"), ("entailment", "x", "y")])
def test_other_names_are_an_error(saved: Saved, load: Load, names: tuple[str, ...]) -> None:
    folder = saved(names)
    with pytest.raises(UserError, match=r"head for the classes .*; this task's are entailment, neutral, contradiction"):
        load(folder)


def test_names_without_a_stored_head_do_not_matter(saved: Saved, load: Load) -> None:
    folder = saved(("a", "b", "c"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    model.base_model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).config.id2label == dict(enumerate(NAMES))


def test_a_saved_model_is_loaded_as_it_is(saved: Saved, load: Load, tmp_path: Path) -> None:
    first = load(saved(("contradiction", "neutral", "entailment")))
    first.save_pretrained(tmp_path / "again")
    byte_tokenizer(max_length=512).save_pretrained(tmp_path / "again")
    assert answers(AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()) == answers(first)
    assert torch.equal(load(tmp_path / "again")(TEXTS).logits, first(TEXTS).logits)


@pytest.mark.parametrize(("config", "expected"), [
    ({}, []),
    ({"id2label": {"0": "a", "1": "b"}}, ["a", "b"]),
    ({"id2label": {"1": "b", "0": "a"}}, ["a", "b"]),
    ({"label2id": {"b": 1, "a": 0}}, ["a", "b"]),
    ({"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["a", "b"]),
    ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, []),
    ({"id2label": None, "label2id": None}, []),
])  # fmt: skip
def test_names_are_read_from_either_mapping(config: dict, expected: list[str]) -> None:
    assert stored_labels(config, called="it") == expected


@pytest.mark.parametrize("config", [
    {"id2label": ["a", "b"]}, {"id2label": 3}, {"label2id": {"a": "x"}}, {"label2id": {"a": None}},
    {"id2label": {"0": "a", "2": "b"}}, {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
])  # fmt: skip
def test_names_that_are_not_understood_are_an_error(config: dict) -> None:
    with pytest.raises(UserError, match=r"^it has "):
        stored_labels(config, called="it")


def test_order_of_gives_the_stored_output_of_each_class() -> None:
    assert order_of(["c", "A", "b"], ["a", "b", "c"], called="it") == [1, 2, 0]


def test_a_head_that_cannot_be_reordered_is_an_error(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = spread(tiny_model("tiny_bert", num_outputs=3))
    before: Tensor = model(TEXTS).logits
    with pytest.raises(UserError, match="cannot be put into the order"):
        reorder_outputs(model, [2, 0, 1], head="nothing")
    assert torch.equal(model(TEXTS).logits, before)
