"""The folder with the configuration files.

Imports neither torch nor transformers, so that a wrong setting is reported at once.
"""

from pathlib import Path

from rosa_bench.system.files import shipped


def conf_folder() -> Path:
    """Return the folder: inside the installed package, or at the top of the source tree."""
    return shipped("conf", "conf")
