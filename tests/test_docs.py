"""README and docs/ name only files, modules and commands that exist, and the README every task, model and method."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(text: str) -> str:
    """Return Markdown without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


def test_commands_behind_numbers_exist() -> None:
    evidence = ROOT / "docs" / "evidence.md"
    labels = {int(label) for label in re.findall(r"# C(\d+)\b", evidence.read_text(encoding="utf-8"))}
    assert labels == set(range(1, max(labels) + 1))
    for page in (evidence, *(ROOT / "docs" / name for name in ("findings.md", "explanations.md"))):
        text = prose(page.read_text(encoding="utf-8"))
        assert {int(label) for label in re.findall(r"\bC(\d+)\b", text)} <= labels, page
        assert {int(last) for last in re.findall(r"\bC1 to C(\d+)\b", text)} <= {max(labels)}, page


@pytest.mark.parametrize("group", ["task", "model", "method"])
def test_readme_lists_every_choice(group: str) -> None:
    [row] = re.findall(rf"^\| `{group}` \|(.*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", row))
    assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} <= listed


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_site_shows_every_page() -> None:
    shown = set(re.findall(r"([\w/]+\.md)$", (ROOT / "docs" / "site" / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert shown == pages | {"index.md"}  # which is the README
