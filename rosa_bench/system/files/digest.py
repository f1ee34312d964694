"""The SHA-256 of files."""

import hashlib
from pathlib import Path


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of the concatenated contents of ``paths``, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
