"""Names that become parts of file names and of command lines."""

import re

from rosa_bench.system.errors import UserError

LONGEST = 48  # bytes: a run's file is named after three names, and file systems allow 255
# Letters and digits of any script, and "_", ".", "+", "-". So a name is never a path, an option or hidden file.
NAME = r"\A\w[\w.+-]{0,47}\Z"


def check_name(key: str, value: str) -> None:
    """Raise `UserError`, naming the setting ``key``, unless ``value`` can be part of a file name everywhere."""
    if not re.search(NAME, value) or len(value.encode()) > LONGEST:
        raise UserError(
            f"{key}={value!r} is not a name; use at most {LONGEST} letters and digits, and _ . + - after the first"
        )
