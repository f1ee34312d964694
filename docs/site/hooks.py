"""Hooks of MkDocs: the README is the first page, and links to files outside docs/ lead to the repository."""

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
HOME = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, and the figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = LINK.sub(lambda found: f"]({_from_docs(found[1])}", readme)
    files.append(File.generated(config, "index.md", content=text))
    for path in sorted((ROOT / "results" / "figures").glob("*.svg")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_known: Any) -> str:
    """Let links that leave docs/ lead to the repository, and images of figures to their copies."""
    folder = posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda found: f"]({_target(found[1], folder)}", markdown)


def _from_docs(link: str) -> str:
    """Return a link of the README as a page in docs/ would write it."""
    return link.removeprefix("docs/") if link.startswith("docs/") else f"../{link}"


def _target(link: str, folder: str) -> str:
    place = posixpath.normpath(posixpath.join("docs", folder, link))
    if place.startswith("results/figures/") and place.endswith(".svg"):
        return posixpath.relpath(f"figures/{posixpath.basename(place)}", folder or ".")
    if place.startswith("docs/") and not place.startswith("docs/examples/"):
        return link
    return f"{HOME}/blob/main/{place}"
