import importlib.metadata
import inspect
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import rosa_bench
from rosa_bench.config.groups import kinds, names_in
from rosa_bench.config.schema import RunConfig
from rosa_bench.records.parts.conditions import Git
from rosa_bench.records.provenance import git_state, versions

ME = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *ME, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository that appears to contain the package."""
    for name in ("rosa_bench/provenance.py", "conf/config.yaml", "pyproject.toml", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(rosa_bench, "__path__", [str(tmp_path / "rosa_bench")])
    return tmp_path


def test_versions_are_the_installed_ones() -> None:
    found = versions()
    assert found.pop("python") == platform.python_version()
    assert found.pop("rosa-bench") == rosa_bench.__version__
    assert {"torch", "transformers", "datasets", "scikit-learn", "scipy", "numpy"} <= set(found)
    assert found == {name: importlib.metadata.version(name) for name in found}


def test_a_record_has_the_versions_of_the_methods_own_libraries(compose: Callable[..., RunConfig]) -> None:
    method = compose("task=grammar", "model=tiny_roberta", "method=adalora").method
    assert versions(method.libraries) == versions() | {"peft": importlib.metadata.version("peft")}


@pytest.mark.parametrize("method", names_in("method"))
def test_a_method_whose_code_imports_peft_says_so(method: str) -> None:
    [kind] = kinds("method", method)
    modules = {inspect.getmodule(one) for one in kind.__mro__ if one.__module__.startswith("rosa_bench.methods")}
    needs = r"(?m)^( {8,}from peft|from rosa_bench\.methods\.peft)\b"
    imports = any(re.search(needs, inspect.getsource(module)) for module in modules if module)
    assert imports == ("peft" in kind.libraries)


def test_a_clean_checkout_gives_its_commit(checkout: Path) -> None:
    assert git_state() == Git(commit=git(checkout, "rev-parse", "HEAD"), dirty=False)


@pytest.mark.parametrize(("name", "dirty"), [
    ("rosa_bench/provenance.py", True), ("rosa_bench/new.py", True), ("conf/config.yaml", True),
    ("conf/new.yaml", True), ("pyproject.toml", True), ("README.md", False), ("results.json", False),
])  # fmt: skip
def test_only_changes_that_can_affect_scores_make_a_checkout_dirty(checkout: Path, name: str, dirty: bool) -> None:
    (checkout / name).write_text("second")
    assert git_state().dirty is dirty


def test_there_is_no_commit_outside_a_checkout(checkout: Path) -> None:
    (checkout / ".git").rename(checkout / "elsewhere")
    assert git_state() == Git()


def test_an_installed_package_ignores_the_repository_around_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = checkout / ".venv/lib/rosa_bench"
    inside.mkdir(parents=True)
    monkeypatch.setattr(rosa_bench, "__path__", [str(inside)])
    assert git_state() == Git()


def test_there_is_no_commit_in_an_empty_repository_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(rosa_bench, "__path__", [str(tmp_path / "rosa_bench")])
    assert git_state() == Git()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == Git()


def test_variables_of_git_that_name_another_repository_change_nothing(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Git(commit=git(checkout, "rev-parse", "HEAD"), dirty=False)
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    for name, value in {
        "GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / "index",  # as in a hook
        "GIT_OBJECT_DIRECTORY": other / "objects", "GIT_CONFIG_COUNT": "x", "GIT_CONFIG_PARAMETERS": "x",
        "GIT_TRACE": "1", "GIT_PAGER": "false", "LANG": "tr_TR.UTF-8", "LC_ALL": "xx",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    assert git_state() == expected


def test_a_users_configuration_of_git_starts_no_program_and_hides_no_change(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "monitor").write_text(f"#!/bin/sh\ntouch {home}/started\n")
    (home / "monitor").chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\nfsmonitor = {home}/monitor\n[status]\nshowUntrackedFiles = no\n")
    monkeypatch.setenv("HOME", str(home))
    (checkout / "conf/neu_é.yaml").write_text("new")
    assert git_state().dirty is True
    assert not (home / "started").exists()
