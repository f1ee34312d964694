import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.composing.placing import Placing
from rosa_bench.config.composing.placing import plain as unresolved
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.files.preset import at_given_rate
from rosa_bench.config.identity.run_id import public_config
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.store import load_records

RESULTS = Path(__file__).parents[3] / "results"
PRESETS = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))


def plain(raw: object) -> object:
    return OmegaConf.to_container(raw, resolve=True)


@pytest.mark.parametrize("arguments", [
    ["task=cola,rte", "method=lora,rosa", "rank=2,8", "lr=1e-3,2e-3"],
    ["task=grammar", "model=tiny_bert,tiny_roberta", "method.select=random,block", "seed=range(3)"],
    ["method=rosa", "optimizer.betas=[0.9,0.99],[0.9,0.999]", "limit_train=null,7"],
    ["+experiment=figure2", "method=rosa", "task.true_rank=4,8"],
    ["+experiment=methods_small", "task=rte", "method=pissa", "seed=0", "lr_half_decades=0"],
    ["+experiment=quickstart", "task=wic", "method=ft", "model=tiny_bert"],
    ["method=ft,lora", "++model.note=abc", "data_dir='~/a b'"],
    ["rank=4"],
])  # fmt: skip
def test_a_job_is_composed_as_by_hydra(arguments: list[str]) -> None:
    with composing() as composer:
        jobs = composer.expand(arguments)
        assert jobs
        for overrides in jobs:
            assert plain(composer.compose(overrides)) == plain(hydra.compose("config", overrides=list(overrides)))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_values_and_jobs_that_it_has_in_hydra(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [f"+experiment={preset}", "seed=3,4"]
    with composing():
        composed = hydra.compose("config", overrides=arguments[:1], return_hydra_config=True)
        expected = unresolved(composed)
        params = expected.pop("hydra")["sweeper"]["params"]
        monkeypatch.setattr(Placing, "_hydras", None)  # all of them have the package's own forms
        assert repr(Placing().composed({"+experiment": preset})) == repr(expected)  # in the same order too
    both = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(both), max_batch_size=None)
    with composing() as composer:
        assert composer.expand(arguments) == [tuple(job) for job in jobs]


def test_the_last_of_several_choices_counts_as_in_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("task=grammar", "method=nonsense", "logger=tensorboard", "rank=2", "method=lora", "logger=none")
    with composing() as composer:
        expected = hydra.compose("config", overrides=list(overrides))
        monkeypatch.setattr(Placing, "_hydras", None)
        monkeypatch.setattr(hydra, "compose", None)
        assert composer.compose(overrides) == expected


def test_several_presets_are_refused_as_in_hydra() -> None:
    with composing() as composer, pytest.raises(ConfigCompositionException, match="Multiple values for experiment"):
        composer.compose(("+experiment=figure2", "+experiment=quickstart"))


@pytest.mark.parametrize("preset", ["methods", "methods_small", "methods_decoder"])
def test_all_methods_of_a_cell_run_before_the_next_cell(preset: str) -> None:
    with composing() as composer:
        jobs = composer.expand([f"+experiment={preset}", "seed=0,1", "task=rte,cola"])
    cells = [tuple(value for value in job if not value.startswith("method=")) for job in jobs]
    methods = len({value for job in jobs for value in job if value.startswith("method=")})
    assert methods > 1
    assert all(len(set(cells[start : start + methods])) == 1 for start in range(0, len(cells), methods))
    assert len(set(cells)) * methods == len(cells)


@pytest.mark.parametrize("preset", ["methods", "methods_decoder"])
def test_a_sweep_over_methods_has_every_method_or_says_that_it_leaves_it_out(preset: str) -> None:
    folder = conf_folder() / "experiment"
    swept = OmegaConf.load(folder / f"{preset}.yaml").hydra.sweeper.params.method.split(",")
    texts = [(folder / f"{name}.yaml").read_text(encoding="utf-8") for name in {"methods", preset}]
    left_out = [words for text in texts for words in re.findall(r"Left out(?: too)?: (.*?)\.", text, re.DOTALL)]
    assert len(left_out) == len(texts)
    known = {path.stem for path in (conf_folder() / "method").glob("*.yaml")}
    assert known - set(swept) <= set(re.findall(r"\w+", " ".join(left_out)))


def test_given_values_override_those_of_a_preset() -> None:
    with composing() as composer:
        jobs = composer.expand(["+experiment=figure2", "rank=3", "method=lora"])
    assert sorted(jobs) == [
        ("model=mlp1", "method=lora", "rank=3", "+experiment=figure2"),
        ("model=mlp2", "method=lora", "rank=3", "+experiment=figure2"),
    ]


def test_settings_of_hydra_itself_are_not_part_of_a_job() -> None:
    with composing() as composer:
        assert composer.expand(["rank=1,2", "hydra.sweep.dir=elsewhere"]) == [("rank=1",), ("rank=2",)]


@pytest.mark.parametrize("override", ["rnak=8", "method.rnak=8", "optimizer.momentum=0.9"])
def test_an_unknown_setting_raises_the_same_error_as_hydra(override: str) -> None:
    with composing() as composer:
        with pytest.raises(Exception) as ours:
            composer.compose(("method=rosa", override))
        with pytest.raises(Exception) as hydras:
            hydra.compose("config", overrides=["method=rosa", override])
    assert type(ours.value) is type(hydras.value)
    assert str(ours.value) == str(hydras.value)


def test_jobs_do_not_share_values() -> None:
    with composing() as composer:
        first = composer.compose(("method=lora", "rank=2"))
        second = composer.compose(("method=lora", "rank=4"))
        assert (first.rank, first.method.rank, second.rank, second.method.rank) == (2, 2, 4, 4)


def test_the_quickstart_makes_the_runs_that_are_committed() -> None:
    """Its runs were made when other defaults held; the preset says what it means."""
    committed = load_records(RESULTS / "quickstart")
    with composing() as composer:
        jobs = composer.expand(["+experiment=quickstart", "seed=0,1,2"])
        made = {_fingerprint(public_config(parse(composer.compose(job)))) for job in jobs}
    assert made == {_fingerprint(record.config) for record in committed}
    assert len(made) == 18


def _fingerprint(config: dict[str, Any]) -> str:
    """Return what a run chooses, and the period of its method."""
    names = [config[group]["name"] for group in ("task", "model", "protocol", "method")]
    chosen = [config[key] for key in ("epochs", "batch_size", "limit_train", "seed", "lr", "rank")]
    return str([*names, *chosen, config["task"].get("phenomena"), float(config["method"].get("resample_every", 0))])


@pytest.mark.parametrize("overrides", [
    (),
    ("task=cola", "method=lora", "rank=2", "lr=2e-3"),
    ("task=restaurants", "model=tiny_gpt2", "method=houlsby", "protocol=fair", "limit_train=null"),
    ("optimizer.betas=[0.9,0.99]", "method=rosa", "method.select=block", "data_dir='~/a b'"),
    ("task=restaurants", "method=rosa", "protocol=paper"),
    ("task=phonebook",),
    ("task=synthetic", "logger=none", "++model.note=abc"),
])  # fmt: skip
def test_the_tests_own_settings_are_composed_as_by_hydra(
    compose: Callable[..., RunConfig], overrides: tuple[str, ...]
) -> None:
    with composing():
        expected = parse(hydra.compose("config", overrides=list(overrides)))
    assert public_config(compose(*overrides)) == public_config(expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_given_learning_rate_is_that_of_every_job_of_a_preset(preset: str) -> None:
    def jobs(*given: str) -> set[tuple[str, str]]:
        """The rate of each job, and the half-decades that are added to it."""
        with composing() as composer:
            found = composer.expand(at_given_rate([f"+experiment={preset}", "seed=0", *given]))
        values = [dict(override.split("=", 1) for override in job) for job in found]
        return {(one["lr"], one.get("lr_half_decades", "0")) for one in values}

    assert jobs("lr=0.004") == {("0.004", "0")}
    assert jobs("lr_half_decades=1,2", "lr=0.004") == {("0.004", "1"), ("0.004", "2")}
