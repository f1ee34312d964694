"""The catalogue of methods: ``rosa-bench methods`` and docs/methods.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel

from rosa_bench.cli.commands.methods import LEGEND, table
from rosa_bench.cli.commands.models import load_specs
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.files.folder import conf_folder, files_in
from rosa_bench.config.groups import names_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.size import Size
from rosa_bench.models.loading.configuration import configuration
from rosa_bench.runs.planning import catalogue
from rosa_bench.runs.planning.catalogue import Entry, Sizes, about, comment, details, entry, size
from scripts.methods_page import PAGE, beginning, flags, page, sizes

METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
OUTDATED = "docs/methods.md is not up to date; run: python -m scripts.methods_page"
Program = Callable[..., Any]


@pytest.fixture(scope="module")
def listed() -> dict[str, Entry]:
    """Three methods on RoBERTa-base and GPT-2, by method and model."""
    with composing() as composer:
        cases = [("lora", "roberta_base", "cola"), ("ft", "gpt2", "e2e_nlg"), ("bitfit", "smollm2_135m", "e2e_nlg")]
        return {
            f"{name} {model}": entry(composer, [f"model={model}", f"task={task}", "protocol=paper"], name, Sizes())
            for name, model, task in cases
        }


@pytest.mark.parametrize("name", METHODS)
def test_each_yaml_says_what_the_catalogue_shows(name: str) -> None:
    known = about(name)
    assert known["trains"]
    assert len(known["trains"]) < 70
    assert comment(name)
    assert "\n" not in comment(name)  # it is wrapped to the width of the terminal
    if "paper" in known:
        assert Entry(**known).link.startswith("https://")
        assert 2015 < known["year"] < 2100


def test_sizes_are_those_of_the_paper(listed: dict[str, Entry]) -> None:
    # Table 2 rounds LoRA's to 0.6 M. RoBERTa-base has 124,645,632 numbers, 590,592 of a pooler that is not used, and
    # a head of 592,130.
    assert listed["lora roberta_base"].size == Size(124_645_632 - 590_592 + 592_130, 626_688, 2 * 626_688)
    assert listed["ft gpt2"].size == Size(124_439_808, 124_439_808, 2 * 124_439_808)


def test_a_method_that_refuses_a_model_says_why(listed: dict[str, Entry]) -> None:
    refused = listed["bitfit smollm2_135m"]
    assert refused.size is None
    assert "method=bitfit finds nothing to train" in refused.refusal


@pytest.mark.parametrize("name", ["roberta_base", "roberta_large", "gpt2", "gpt2_medium", "mpnet_base", "minilm",
                                  "smollm2_135m"])  # fmt: skip
def test_a_declared_shape_has_the_declared_number_of_parameters(name: str) -> None:
    spec: Any = load_specs(files_in("model"))[name]
    assert spec.shape["model_type"] == spec.model_type
    with torch.device("meta"):
        model = AutoModel.from_config(configuration(spec.shape, called=name))
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters


def test_what_is_known_of_a_size_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path))
    measured: list[str] = []

    def counted(config: RunConfig, models: dict[str, nn.Module]) -> Size:
        measured.append(config.method.name)
        return size(config, models)

    monkeypatch.setattr(catalogue, "size", counted)
    names, tiny = ["lora", "prefix_tuning", "peft"], "model=tiny_roberta"
    chosen = [[tiny], [tiny], [tiny, "method.peft_type=BOFT"]]  # has a size; refuses an encoder; needs weights
    with composing() as composer:
        first, again = ([details(composer, *one).entry for one in zip(chosen, names, strict=True)] for _ in range(2))
        assert (measured, again) == (names, first)
        assert [one.size is None for one in again] == [False, True, True]
        assert [bool(one.refusal) for one in again] == [False, True, False]
        details(composer, ["model=tiny_roberta", "rank=2"], "lora")
        details(composer, ["model=tiny_bert"], "lora")
    assert measured == [*names, "lora", "lora"]


def test_the_table_fits_80_columns_and_loses_nothing() -> None:
    entries = [
        Entry(name="a_method_with_a_long_name", trains="a few words, and then some more words that must be wrapped",
              arxiv="2407.07802", year=2024, size=Size(10**9, 355_359_744, 710_719_488), mergeable=True,
              keeps_function=False),
        Entry(name="other", trains="nothing", refusal="method=other is for encoders; " + "long reason " * 12),
        Entry(name="third", refusal="too large; use a smaller one"),
    ]  # fmt: skip
    lines = table(entries)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in ("must be wrapped", "355.4 M", "2,843 MB", "M-", "refused", "third: too large", LEGEND[:40]):
        assert words in text.replace("must be  wrapped", "must be wrapped"), words


def test_methods_that_lack_the_same_package_share_one_note() -> None:
    lacks = "needs the package peft; install it"
    names = ("dora", "eva", "vera")
    notes = " ".join(table([Entry(name=name, refusal=f"method={name} {lacks}") for name in names]))
    assert f"method=dora, eva, vera: {lacks}" in notes
    assert notes.count(lacks) == 1


def test_details_show_settings_with_values_help_and_choices() -> None:
    with composing() as composer:
        found = details(composer, ["model=roberta_base", "task=cola", "rank=4"], "rosa")
    settings = dict(found.settings)
    assert found.entry.link == "https://arxiv.org/abs/2407.07802"
    assert "now and then it is merged and drawn again" in found.comment
    assert "rank=4" in settings
    assert settings["method.train=both"].endswith("(both, a)")
    assert "method.resample_every=2.0" in settings  # the recipe's default
    assert not [name for name in settings if "default_" in name or "look" in name or "about" in name]


@pytest.mark.slow  # it measures every method
def test_the_command_lists_every_method(rosa_bench: Program) -> None:
    outcome = rosa_bench("methods", "model=tiny_llama", "rank=2")
    assert (outcome.status, outcome.err) == (0, "")
    assert {line.split()[0] for line in outcome.out.splitlines() if line.strip()} >= set(METHODS)
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_the_command_shows_one_method(rosa_bench: Program) -> None:
    outcome = rosa_bench("methods", "bitfit", "model=tiny_roberta")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("BitFit (method=bitfit)")
    assert "https://arxiv.org/abs/2106.10199" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_settings_of_the_named_method_change_what_is_shown(rosa_bench: Program) -> None:
    """The model's task is found without them: no other method has them."""
    outcome = rosa_bench("methods", "oft", "model=tiny_llama", "protocol=fair", "method.config.oft_block_size=8")
    assert (outcome.status, outcome.err) == (0, "")
    *_, count = re.findall(r"size +([\d,]+) of", outcome.out)
    trained = int(count.replace(",", ""))  # 7 x 8 / 2 numbers for each block of 8 inputs of q, k, v and o
    assert trained == 2 * 4 * (32 // 8) * 28


def test_a_model_without_words_is_refused_by_methods_for_text() -> None:
    with composing() as composer:
        found = [
            entry(composer, ["task=synthetic", "model=mlp1", *more], name, Sizes())
            for name, more in (("prompt_tuning", ()), ("peft", ("method.peft_type=TRAINABLE_TOKENS",)))
        ]
    assert ["is for transformers" in found[0].refusal, "finds no layer" in found[1].refusal] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rosx",), "method=rosx is not known.*did you mean rosa"),
        (("rosa", "lora"), "lora is not KEY=VALUE"),
        (("method=rosa",), "rosa-bench methods NAME"),
        (("rnk=2",), "rnk is not a setting; did you mean rank"),
        (("model=gpt2", "task=cola"), "task=cola is not for model=gpt2"),
    ],
)
def test_mistakes_are_reported_in_one_line(rosa_bench: Program, arguments: tuple[str, ...], message: str) -> None:
    outcome = rosa_bench("methods", *arguments)
    assert outcome.status == 1
    assert outcome.out == ""
    assert re.search(message, outcome.err)


def test_the_page_has_a_row_for_every_method_with_its_yamls_words() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert names_in("method") == METHODS
    for name in METHODS:
        assert f"\n| {' | '.join(beginning(name))} |" in text, OUTDATED


@pytest.mark.parametrize("name", ["galore", "houlsby", "p_tuning", "rosa", "shira"])
def test_a_row_of_the_page_is_up_to_date(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rosa_bench.runs.planning.catalogue", "scripts.methods_page"):
        monkeypatch.setattr(f"{module}.names_in", lambda group: [name] if group == "method" else names_in(group))
    with composing() as composer:
        *_, row = page(sizes(composer)).splitlines()
    assert row.startswith(f"| `{name}` |")
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), OUTDATED


def test_a_method_whose_size_is_unknown_keeps_what_is_known() -> None:
    unsized, refused = Entry(name="a", mergeable=True, keeps_function=False), Entry(name="a", refusal="too large")
    assert flags([refused, unsized]) == ["yes", "no"]


@pytest.mark.long  # it measures every method on two models
def test_the_page_is_up_to_date() -> None:
    with composing() as composer:
        assert PAGE.read_text(encoding="utf-8") == page(sizes(composer)), OUTDATED
