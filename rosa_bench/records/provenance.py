"""The code that made a run: versions of the libraries, and the commit of this package."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from rosa_bench.records.record import Git
from rosa_bench.system.files import package_folder
from rosa_bench.system.version import __version__

LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn", "scipy", "numpy", "sacrebleu")


def versions() -> dict[str, str]:
    """Return versions of Python and of every library that can change a score."""
    ours = {"python": platform.python_version(), "rosa-bench": __version__}
    return {**ours, **{name: version(name) for name in LIBRARIES}}


def git_state() -> Git:
    """Return the commit of this package's checkout, and whether it was modified."""
    root = package_folder().parent
    if not (root / ".git").exists():
        return Git()
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(root, "status", "--porcelain", "--", "rosa_bench", "conf", "pyproject.toml")
    except (OSError, subprocess.CalledProcessError):
        return Git()
    return Git(commit=commit, dirty=bool(changes.strip()))


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout
