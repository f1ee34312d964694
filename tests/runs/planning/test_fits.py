"""A plan remembers which methods fit which models, and nothing that could be wrong later."""

import json
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.api import compose, resolve
from rosa_bench.runs.planning import fits, plan
from rosa_bench.runs.planning.fits import Fits, entry
from rosa_bench.runs.resolve import ResolvedRun

SWEEP = ("task=grammar", "model=tiny_bert", "device=cpu", "method=rosa,lora", "rank=1,2")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fits.json"


def key_of(run: ResolvedRun) -> str:
    return entry(run.config, run.source)


def kinds_of(arguments: tuple[str, ...], shapes: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Plan a sweep and return the kinds of its jobs; ``shapes`` gets the method of each run that is checked."""
    check = plan._check_shapes

    def counted(run: ResolvedRun, *others: Any) -> None:
        shapes.append(run.config.method.name)
        check(run, *others)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "_check_shapes", counted)
        return [job.kind for job in plan.plan(arguments, str)]


def test_pairs_that_fit_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    assert kinds_of(SWEEP, checked, monkeypatch) == ["new"] * 4
    assert sorted(checked) == ["lora", "lora", "rosa", "rosa"]
    assert kinds_of(SWEEP, checked, monkeypatch) == ["new"] * 4
    assert len(checked) == 4
    kinds_of((*SWEEP, "seed=1"), checked, monkeypatch)  # another seed of the method is another method
    assert len(checked) == 8


def test_what_does_not_fit_is_checked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    for _ in range(2):
        assert kinds_of((*SWEEP, "method.targets=nothing"), checked, monkeypatch) == ["invalid"] * 4
    assert len(checked) == 8


def test_another_state_of_the_package_knows_nothing(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    checked: list[str] = []
    kinds_of(SWEEP, checked, monkeypatch)
    known = json.loads(empty_cache.read_text())
    monkeypatch.setattr(fits, "_state", lambda: "another")
    assert kinds_of(SWEEP, checked, monkeypatch) == ["new"] * 4
    assert len(checked) == 8
    after = json.loads(empty_cache.read_text())
    assert after["state"] == "another" and after["fits"] == known["fits"]


def test_the_state_depends_on_files_and_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\n")
    monkeypatch.setattr(fits, "PACKAGE", tmp_path)
    states = [fits._state.__wrapped__()]
    (tmp_path / "code.py").write_text("a = 12\n")
    states.append(fits._state.__wrapped__())
    monkeypatch.setattr(fits, "version", lambda _name: "0")
    states.append(fits._state.__wrapped__())
    assert len(set(states)) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"state": 1}', '{"state": "x", "fits": 3}', "\xff", "[" * 100_000])
def test_a_damaged_file_is_replaced(damage: str, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    empty_cache.parent.mkdir()
    empty_cache.write_text(damage, encoding="latin-1")
    assert kinds_of(SWEEP, [], monkeypatch) == ["new"] * 4
    assert len(json.loads(empty_cache.read_text())["fits"]) == 4


def test_a_folder_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    empty_cache.parent.write_text("a file in the folder's place")
    checked: list[str] = []
    for _ in range(2):
        assert kinds_of(SWEEP, checked, monkeypatch) == ["new"] * 4
    assert len(checked) == 8


def test_an_entry_is_of_the_settings_that_decide() -> None:
    run = resolve(compose(["task=grammar", "model=tiny_bert", "device=cpu", "rank=2"]))
    same = resolve(compose(["task=grammar", "model=tiny_bert", "device=cpu", "rank=2", "lr=1e-5", "epochs=3"]))
    other = resolve(compose(["task=grammar", "model=tiny_bert", "device=cpu", "rank=3"]))
    shape = ["task=grammar", "model=tiny_bert", "device=cpu", "rank=2", "model.random.hidden_size=64"]
    assert key_of(run) == key_of(same)
    assert len({key_of(run), key_of(other), key_of(resolve(compose(shape)))}) == 3
    known = Fits()
    known.add(run)
    assert same in known and other not in known
