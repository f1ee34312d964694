"""What the program does not take from its surroundings, although a library would.

Imports only what Python has imported before: this file decides where other modules come from.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def settle() -> None:
    """Make output independent of a terminal without a width, and imports of the current folder."""
    if os.environ.get("COLUMNS") == "0":  # as some terminals of build servers say; rich would print nothing
        del os.environ["COLUMNS"]
    _forget_current_folder()


def _forget_current_folder() -> None:
    """Take the current folder off the module path: a file named random.py there would stand in for the library's.

    It is on the path after ``python -m``, and with an empty entry in PYTHONPATH. A checkout of ours stays.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return
    if here != CHECKOUT:
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != here]
