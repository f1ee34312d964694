"""A run's changes: its settings against today's defaults."""

import itertools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.groups import names_in
from rosa_bench.config.identity.defaults import CHOSEN, composed, defaults_of
from rosa_bench.config.identity.deviations import deviations_of
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.report.cells.settings import setting_of, words
from rosa_bench.report.cells.words.changes import changes_of

MakeRecord = Callable[..., RunRecord]
PAPER = {"task": "cola", "model": "roberta_base", "method": "rosa", "protocol": "paper"}


def edited(record: RunRecord, **changes: Any) -> RunRecord:
    """Return a record with settings replaced or, if None, absent; double underscores separate the parts of a key."""
    values = to_values(record)
    for key, value in changes.items():
        *above, name = key.split("__")
        place = values["config"]
        for part in above:
            place = place[part]
        place.pop(name) if value is None else place.update({name: value})
    return from_values(values)


def every_choice() -> list[Any]:
    """Return choices of all groups at once, in which every name of each occurs; one in four is quick."""
    names = [names_in(group) for group in CHOSEN]
    found = itertools.islice(zip(*map(itertools.cycle, names), strict=True), max(map(len, names)))
    return [pytest.param(one, marks=[pytest.mark.long] if place % 4 else []) for place, one in enumerate(found)]


@pytest.mark.parametrize("choice", every_choice(), ids="-".join)
def test_the_short_way_to_the_defaults_gives_what_hydra_composes(choice: tuple[str, ...]) -> None:
    names = dict(zip(CHOSEN, choice, strict=True))
    with composing():
        whole = hydra.compose("config", overrides=[f"{group}={name}" for group, name in names.items()])
    assert composed(names) == OmegaConf.to_container(whole, resolve=False)


@pytest.mark.parametrize(
    "overrides",
    [
        [], ["rank=2", "seed=3", "lr=1e-3"], ["protocol=fair"], ["protocol=fair", "method.resample_every=2"],
        ["method.resample_every=1", "epochs=3", "limit_train=64"], ["protocol.train_head=true"], ["method.rank=3"],
        ["task=phonebook", "task.pairs=1024", "method.resample_unit=steps", "method.resample_every=25"],
        ["task=restaurants", "method=lora", "optimizer.betas=[0.8,0.9]"], ["model=gpt2_medium", "task=e2e_nlg"],
        ["model=gpt2_medium", "task=e2e_nlg", "task.decoding=null", "task.score=loss"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_of_a_run_of_today_they_are_its_deviations(
    compose: Callable[..., RunConfig], make_record: MakeRecord, overrides: list[str]
) -> None:
    with composing():
        expected = deviations_of(compose(*overrides))
    assert {key: list(change) for key, change in changes_of(make_record(*overrides)).items()} == expected


def test_a_section_that_became_null_is_one_change(make_record: MakeRecord) -> None:
    """Whether the record lists it among its deviations or, as older ones, does not."""
    asked = ["model=gpt2_medium", "task=e2e_nlg"]
    with composing():
        usual = asdict(parse(hydra.compose("config", overrides=asked)).task)["decoding"]
    asked += ["task.decoding=null", "task.score=loss"]
    listed = {"task.score": ["loss", "bleu"], "task.decoding": [None, {"beams": 1}]}
    for deviations in ({}, listed):
        found = changes_of(make_record(*asked, deviations=deviations))
        assert found == {"task.decoding": (None, usual), "task.score": ("loss", "bleu")}
    decoding, _ = setting_of(make_record(*asked, deviations=listed)).deviations
    assert (decoding.key, words(decoding.value)) == ("task.decoding", "none")
    assert words(decoding.expected) == "{beams: 5, length_penalty: 1, max_new_tokens: 96, no_repeat_ngram: 4}"


def test_a_setting_older_than_a_record_is_no_change(make_record: MakeRecord) -> None:
    """Its value is the one used then; the unit of the period was epochs."""
    old = edited(make_record(), method__stagger=None, method__basis=None, method__resample_unit=None)
    assert changes_of(old) == {}
    assert changes_of(edited(make_record(), method__resample_every=None)) == {}  # LoRA's value then was not ROSA's


def test_what_the_user_said_of_own_data_is_a_change_and_what_was_found_is_none(make_record: MakeRecord) -> None:
    found = edited(make_record("task=classify"), task__label="verdict")
    said = edited(make_record("task=classify", deviations={"task.label": ["verdict", ""]}), task__label="verdict")
    assert (changes_of(found), changes_of(said)) == ({}, {"task.label": ("verdict", "")})


def test_an_old_run_that_set_todays_default_is_a_plain_one(make_record: MakeRecord) -> None:
    """And one at the default of its day is changed, if that is another one today."""
    assert changes_of(make_record(deviations={"method.resample_every": [2.0, 1.0]})) == {}
    assert changes_of(edited(make_record(), method__resample_every=1.0)) == {"method.resample_every": (1.0, 2.0)}


def test_a_renamed_generator_is_no_change(make_record: MakeRecord) -> None:
    old = edited(make_record("task=grammar"), task__embedded="rosa_bench.data.grammar:sentences")
    assert changes_of(old) == {}


def test_a_setting_that_no_longer_exists_counts_as_recorded(make_record: MakeRecord) -> None:
    old = edited(make_record(deviations={"method.gone": [3, 1]}), method__gone=3, method__forgotten=5)
    assert changes_of(old) == {"method.gone": (3, 1)}


@pytest.mark.parametrize("group", CHOSEN)
def test_a_run_of_an_unknown_choice_is_as_recorded(make_record: MakeRecord, group: str) -> None:
    record = make_record("epochs=3", deviations={"method.resample_every": [0, 2.0]})
    assert changes_of(edited(record, **{f"{group}__name": "gone"})) == {"method.resample_every": (0, 2.0)}


def test_a_name_is_never_a_path() -> None:
    assert defaults_of(**{**PAPER, "method": "../method/rosa"}) is None


def test_a_setting_that_cannot_change_a_score_is_no_change(make_record: MakeRecord) -> None:
    assert changes_of(make_record("task.title=Mine", deviations={"task.title": ["Mine", "CoLA"]})) == {}


def test_the_defaults_are_those_of_a_run_without_overrides() -> None:
    found = defaults_of(**PAPER)
    with composing():
        plain = parse(hydra.compose("config", overrides=[f"{group}={name}" for group, name in PAPER.items()]))
    assert found is not None
    assert found["epochs"].value == plain.epochs
    assert found["method.rank"].follows == "rank"
    assert not {"lr", "seed", "rank", "results_dir"} & found.keys()
