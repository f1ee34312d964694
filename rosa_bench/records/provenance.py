"""The code that made a run: versions of the libraries, and the commit of this package."""

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from rosa_bench.records.parts.conditions import Git
from rosa_bench.system.files.places import package_folder
from rosa_bench.system.version import __version__

GIT_S = 30  # longest time to wait for git; a checkout on a slow share may never answer
LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn", "scipy", "numpy", "sacrebleu")
_version = cache(version)  # a process keeps the code that it has imported


def versions(further: Iterable[str] = ()) -> dict[str, str]:
    """Return versions of Python and of every library that can change a score, and of ``further`` ones."""
    ours = {"python": platform.python_version(), "rosa-bench": __version__}
    return {**ours, **{name: _version(name) for name in (*LIBRARIES, *further)}}


def git_state() -> Git:
    """Return the commit of this package's checkout, and whether it was modified."""
    root = package_folder().parent
    if not (root / ".git").exists():
        return Git()
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(
            root, "status", "--porcelain", "--untracked-files=all", "--", "rosa_bench", "conf", "pyproject.toml"
        )
    except (OSError, subprocess.SubprocessError):
        return Git()
    return Git(commit=commit, dirty=bool(changes.strip()))


def _git(root: Path, *arguments: str) -> str:
    """Ask git about the checkout at ``root``, and nothing else.

    Variables such as GIT_DIR, which git sets for its hooks, name another repository. A monitor of files that the user's
    or the checkout's configuration names is a program, which is not started.
    """
    known = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = [
        "-c",
        f"safe.directory={root.resolve()}",
        "-c",
        "core.fsmonitor=false",
        "--no-optional-locks",
        "--no-pager",
    ]
    return subprocess.run(
        ["git", "-C", str(root), *options, *arguments],
        check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=GIT_S, stdin=subprocess.DEVNULL,
        env={**known, "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_TERMINAL_PROMPT": "0"},
    ).stdout  # fmt: skip
