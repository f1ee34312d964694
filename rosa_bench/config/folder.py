"""The settings of one run, typed and checked. Past this point no one reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is told at once.
"""

from pathlib import Path

from rosa_bench.system.files import shipped


def conf_folder() -> Path:
    """Where the configuration files are: inside an installed package, else at the top of the source tree."""
    return shipped("conf", "conf")
