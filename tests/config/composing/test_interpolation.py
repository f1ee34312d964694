"""Plain values are resolved and typed as omegaconf resolves and types them."""

import dataclasses
from functools import cache
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from rosa_bench.config import build
from rosa_bench.config.composing import compose
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.interpolation import resolved
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.composing.placing import _placing
from rosa_bench.config.declared import UnfittingError, fitting
from rosa_bench.config.groups import GROUPS, names_in
from rosa_bench.config.schema import Plain
from rosa_bench.system.errors import UserError

CHOICES = [f"{group}={name}" for group in ("task", "method", "optimizer") for name in names_in(group)][::9]
CHOICES += ["logger=tensorboard"]


@cache
def composed(choice: str) -> DictConfig:
    with composing():
        return hydra.compose("config", overrides=[choice, "protocol=fair"])


def exactly(value: Any) -> str:
    """A text that differs where values do, and where 1, 1.0 and True do."""
    return repr(value)


@pytest.mark.parametrize("choice", CHOICES)
def test_references_are_resolved_as_by_omegaconf(choice: str) -> None:
    raw = composed(choice)
    assert exactly(resolved(raw)) == exactly(OmegaConf.to_container(raw, resolve=True))


@pytest.mark.parametrize(("folder", "value", "expected"), [
    ("/Übung 1", "${folder}/runs/a-b.c", "/Übung 1/runs/a-b.c"),
    ("${oc.select:other,null}", "${folder}/x", "up/x"),
    (3, "${folder}/x", "3/x"),
    ("a", "${folder}/${folder}", "a/a"),
    ("a", "${folder}/x y", "a/x y"),
])  # fmt: skip
def test_paths_below_a_folder_are_resolved_as_by_omegaconf(folder: Any, value: str, expected: str) -> None:
    plain = {"folder": folder, "value": value, "other": "up"}
    assert OmegaConf.create(plain).value == expected
    assert resolved(plain)["value"] == expected


@pytest.mark.parametrize("value", ["${nowhere}", "${oc.env:HOME,x}", "???", "a ${seed}", "${lr}", "${seed}"])
def test_unusual_references_are_left_to_omegaconf(value: str) -> None:
    plain: dict[str, Any] = {"seed": 3, "lr": "${seed}", "note": value}
    raw = OmegaConf.create(plain)
    try:
        expected = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)
    except Exception:  # of any kind: ours is one line
        with pytest.raises(UserError, match="note"):
            resolved(plain)
    else:
        assert resolved(plain) == resolved(raw) == expected


def test_nothing_resolved_is_shared() -> None:
    plain = {"targets": ["a", "b"], "again": "${targets}"}
    found = resolved(plain)
    found["again"].append("c")
    assert (plain["targets"], found["targets"]) == (["a", "b"], ["a", "b"])


def test_values_are_typed_as_by_omegaconf() -> None:
    fitted = set()
    for choice in CHOICES:
        values = resolved(composed(choice))
        for group, (_, default) in GROUPS.items():
            given = dict(values[group])
            target = given.pop("_target_", None)
            kind: Any = default if target is None else build.imported(target, group)
            try:
                made = kind(**fitting(kind, given))
            except UnfittingError:
                continue
            fitted.add(group)
            assert exactly(made) == exactly(build._by_omegaconf(kind, given, ""))
    assert {"method", "model", "protocol", "logger"} <= fitted


@pytest.mark.parametrize("value", [1, 0.5, True, "1", "auto", None, [1], {"a": 1}, "???", 2**60])
@pytest.mark.parametrize("key", ["lr", "seed", "pad_to_max", "device", "max_length", "data_dir"])
def test_a_value_of_any_type_becomes_what_omegaconf_makes_of_it(key: str, value: Any) -> None:
    values = {"lr": 0.1, "seed": 0, "epochs": 1, "batch_size": 2, "max_length": 8, key: value}
    try:
        found = Plain(**fitting(Plain, values))
    except (UnfittingError, UserError):
        return  # then omegaconf decides, or the class
    assert exactly(found) == exactly(build._by_omegaconf(Plain, values, ""))
    assert dataclasses.asdict(found)[key] == value


JOBS = (
    ("rank=4", "lr=2e-3"), ("method.select=block", "seed=7"), ("optimizer.betas=[0.9,0.99]",), ("lr=${seed}", "seed=1"),
    ("limit_train=null",), ("data_dir='a b'",),
)  # fmt: skip


def test_settings_of_a_job_are_those_of_its_whole_configuration() -> None:
    with composing() as composer:
        for job in JOBS:
            overrides = ("task=grammar", "model=tiny_bert", "method=rosa", *job)
            assert parse(composer.settings(overrides)) == parse(composer.compose(overrides))


def test_hydra_composes_a_sweep_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    by_hydra = hydra.compose

    def counted(name: str, overrides: list[str], **others: Any) -> DictConfig:
        calls.append(overrides)
        return by_hydra(name, overrides=overrides, **others)

    monkeypatch.setattr(compose.hydra, "compose", counted)
    for jobs in (2, 20):
        calls.clear()
        _placing.cache_clear()  # or earlier tests would have composed the task
        with composing() as composer:
            for job in composer.expand(["task=grammar", "method=lora,rosa", f"seed=range({jobs})", "lr=1e-3,2e-3"]):
                assert isinstance(composer.settings(job), dict)
        assert len(calls) == 1  # for the sweep: the files of the task and of the methods are put in place
