"""README and docs/ name only files, modules, commands and choices that exist."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = ("task", "model", "method", "protocol", "optimizer", "logger", "launch", "experiment")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(text: str) -> str:
    """Return Markdown without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every ``rosa-bench`` command in the fenced bash blocks."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = re.split(r"\s#\s|\s\|\s", line)[0].split()
            if words[:1] == ["rosa-bench"]:
                yield words[1:]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def help_text() -> str:
    """Return the output of ``rosa-bench --help``."""
    program = "import sys; sys.argv = ['rosa-bench', '--help']; from rosa_bench.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@each_page
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    for link in (link for link in links if not link.startswith(("http:", "https:"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_named_paths_and_scripts_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:rosa_bench|conf|docs|scripts|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (scripts[\w.]*\w)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@each_page
def test_commands_in_fenced_blocks_are_known(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        first = words[0] if words else ""
        known = first.startswith("-") or "=" in first or re.search(rf"^\s*(rosa-bench )?{first}\b", help_text(), re.M)
        assert known, " ".join(words)


@each_page
def test_choices_in_fenced_commands_exist(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        for key, _, values in (word.removeprefix("+").partition("=") for word in words):
            for value in values.split(",") if key in GROUPS else []:
                assert (ROOT / "conf" / key / f"{value}.yaml").is_file(), " ".join(words)


@pytest.mark.parametrize("group", ["task", "model", "method", "protocol", "logger", "launch"])
def test_readme_lists_every_choice(group: str) -> None:
    [row] = re.findall(rf"^\| `{group}` \|(.*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", row))
    assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} <= listed


@pytest.mark.slow
def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    quick = [block for block in blocks if "rosa_bench.run(" not in block]  # test_api.py runs one
    assert quick
    for block in quick:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_map_shows_every_folder_of_the_package_and_no_other() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```text\nrosa_bench/\n(.*?)^conf/", text, re.MULTILINE | re.DOTALL)
    package = ROOT / "rosa_bench"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^  (\S+)", block, re.MULTILINE)) == folders | modules
