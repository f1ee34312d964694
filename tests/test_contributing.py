"""CONTRIBUTING.md names files, functions and make targets that exist, and every folder of the package."""

import ast
import re
from pathlib import Path

import pytest

import rosa_bench

ROOT = Path(rosa_bench.__file__).parent.parent
GUIDE = ROOT / "CONTRIBUTING.md"
PLACES = ("rosa_bench", "conf", "tests", "scripts", "results", "docs")  # a mention starts with one of these folders
MENTION = re.compile(rf"`((?:{'|'.join(PLACES)})/[^`\s:]*)(?::([\w.]+))?`")

pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="needs the source tree")


def definitions(path: Path) -> set[str]:
    """Return the names defined at the top of a Python file, and ``Class.method`` for its classes."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def missing(text: str) -> list[str]:
    """Return the backticked paths and ``path:name`` mentions in ``text`` that do not exist."""
    found = []
    for path, name in MENTION.findall(text):
        if not (ROOT / path).exists():
            found.append(path)
        elif name and name not in definitions(ROOT / path):
            found.append(f"{path}:{name}")
    return found


def test_everything_mentioned_exists() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert missing(text) == []
    assert len(MENTION.findall(text)) > 60


def test_a_wrong_mention_is_found() -> None:
    selection = "rosa_bench/training/observers/selection.py"
    right = f"`rosa_bench/lowrank.py:merge` `{selection}:BestEpoch.offer` `conf/task/`"
    wrong = f"`rosa_bench/nowhere.py` `rosa_bench/lowrank.py:melt` `{selection}:BestEpoch.refuse`"
    assert missing(right) == []
    assert missing(wrong) == re.findall(r"`([^`]+)`", wrong)


def test_the_map_lists_every_folder_of_the_package() -> None:
    rows = re.findall(r"^\| `rosa_bench/(\w+)(?:/|\.py)` \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    rooms = [
        path.stem
        for path in (ROOT / "rosa_bench").iterdir()
        if path.suffix in ("", ".py") and not path.stem.startswith("_")
    ]
    assert sorted(rows) == sorted(rooms)


def test_every_mentioned_make_target_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets
    assert {"check", "test", "test-slow", "test-gpu", "test-all", "help"} <= named
