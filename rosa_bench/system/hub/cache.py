"""The hub's cache on this machine: where its files are, whether they have their hashes, and which commits are complete.

The files are in the cache of the hub's client. What a commit should contain is noted in ours, so that a copy that is
incomplete or damaged is noticed without the hub too.
"""

import hashlib
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.files.digest import sha256
from rosa_bench.system.files.places import cache_folder

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
KEPT = 10  # earlier commits of a revision, each of which may have other files in the cache


class Repository(NamedTuple):
    """A repository on the hub. ``kind`` is ``model`` or ``dataset``; ``revision`` a branch, tag or commit."""

    id: str
    kind: str
    revision: str = "main"

    @property
    def cache_name(self) -> str:
        """Name of the repository's folder in a cache."""
        return f"{self.kind}s--{self.id.replace('/', '--')}"


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit, on this machine. ``files`` are paths inside ``folder``."""

    folder: Path
    commit: str
    files: tuple[str, ...]


class Listing(NamedTuple):
    """A commit, and its files: path -> SHA-256 of a large file, git's SHA-1 of any other, None if unknown."""

    commit: str
    digests: dict[str, str | None]


def is_intact(path: Path, digest: str | None) -> bool:
    """Return whether a file has its hash. In the cache a file is a link to one that is named by its hash."""
    named = path.resolve().name
    expected = digest or (named if path.is_symlink() and DIGEST.fullmatch(named) else None)
    if expected is None:
        return True
    return (sha256(path) if len(expected) == 64 else _git_hash(path)) == expected


def _git_hash(path: Path) -> str:
    """Return git's hash of a file, as 40 hexadecimal digits."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def snapshot_folder(repository: Repository, commit: str) -> Path:
    """Return the folder in the client's cache for the files of a commit."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / repository.cache_name / "snapshots" / commit


def found_in_cache(repository: Repository, commit: str) -> Listing:
    """List what another program has downloaded, whether or not that is complete."""
    folder = snapshot_folder(repository, commit)
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return Listing(commit, dict.fromkeys(paths))


def _note(repository: Repository, revision: str) -> Path:
    return cache_folder() / "hub" / repository.cache_name / f"{quote(revision, safe='')}.json"


def remember(repository: Repository, listing: Listing) -> None:
    """Note the files of a commit, and that the revision was this commit. Call it once all files are complete."""
    newest_first = [listing.commit, *(it for it in commits(repository) if it != listing.commit)]
    notes = {repository.revision: newest_first[:KEPT], listing.commit: listing.digests}  # the revision may be a commit
    for revision, values in notes.items():
        try:
            path, content = _note(repository, revision), json.dumps(values).encode()
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content)
        except OSError as error:  # works without, but cannot tell later offline whether a copy is complete
            log.debug("the files of %s are not noted: %s", repository.id, error)


def _read_note(repository: Repository, revision: str) -> Any:
    try:
        return json.loads(_note(repository, revision).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def listed(repository: Repository, commit: str) -> Listing | None:
    """Return what the hub listed for a commit when its files were fetched. None if that is unknown."""
    digests = _read_note(repository, commit)
    if not isinstance(digests, dict):
        return None
    known = all(it is None or (isinstance(it, str) and DIGEST.fullmatch(it)) for it in digests.values())
    return Listing(commit, digests) if known else None


def commits(repository: Repository) -> list[str]:
    """Return the commits that a revision is known to have been, newest first; the last as another program noted it."""
    from huggingface_hub import constants

    noted = _read_note(repository, repository.revision)
    found = [it for it in noted if isinstance(it, str)] if isinstance(noted, list) else []
    with suppress(OSError, ValueError):
        found.append(Path(constants.HF_HUB_CACHE, repository.cache_name, "refs", repository.revision).read_text())
    return [commit for commit in dict.fromkeys(found) if COMMIT.fullmatch(commit)]
