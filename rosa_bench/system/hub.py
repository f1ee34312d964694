"""Files of a repository on the Hugging Face hub: at one commit, each compared with its hash.

The hub is asked once for a commit and its list of files. Missing files are downloaded into the hub's own cache. Callers
then read a local folder, so nothing after this can reach the network. If the hub does not answer as it should, the last
complete copy in the cache is used, and the log says so.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from rosa_bench.system.errors import UserError
from rosa_bench.system.files import cache_folder, sha256, write_atomic
from rosa_bench.system.network import is_silence, reason, waiting

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
PAUSE_S = 300.0  # a hub that did not answer is not asked again for this long
_silent: dict[str, tuple[float, str]] = {}  # by address: until when, and what happened
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


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


class UnavailableError(Exception):
    """The hub, or its cache, does not have what was asked for. The message is a clause that says why."""


def fetch(
    repository: Repository,
    choose: Callable[[Sequence[str]], list[str]],
    *,
    what: str,
    remedies: Sequence[str],
    commit: str | None = None,
) -> Snapshot:
    """Return the files that ``choose`` picks from all paths of a repository. Missing and damaged ones are downloaded.

    choose    may raise `UserError` if a needed file is not among the paths
    what      starts the error message: ``model=gpt2``
    remedies  what a user can do if neither the hub nor the cache has the files
    commit    the only commit that will do; by default the newest of the repository's revision

    Raises `UserError` if the hub cannot be used and no complete, intact copy is cached.
    """
    if COMMIT.fullmatch(repository.revision):
        commit = commit or repository.revision
    try:
        known = _remembered(repository, commit) if commit else None
        listing = known or _ask(repository, commit)
        found = _complete(repository, listing, choose(list(listing.digests)))
    except UnavailableError as problem:
        try:
            listing = _remembered(repository, commit) or _found_in_cache(repository, commit)
            found = _intact(repository, listing, choose(list(listing.digests)))
        except (UnavailableError, UserError) as missing:
            ways = ", ".join(remedies[:-1]) + f", or {remedies[-1]}"
            raise UserError(
                f"{what} cannot be fetched from the hub ({_named(repository, commit)}: {problem}) and "
                f"{_not_cached(missing)}; {ways}"
            ) from problem
        log.warning("%s; going on with the cached copy of %s, commit %s", problem, repository.id, found.commit)
        return found
    _remember(repository, listing)
    return found


def _named(repository: Repository, commit: str | None) -> str:
    return f"{repository.id}, commit {commit}" if commit and commit != repository.revision else repository.id


def _not_cached(missing: Exception) -> str:
    return str(missing) if str(missing) and isinstance(missing, UnavailableError) else "is not cached on this machine"


def _ask(repository: Repository, commit: str | None) -> Listing:
    """Ask the hub which commit a revision is, and for the paths and hashes of its files: a single request."""
    from huggingface_hub import HfApi, constants

    _raise_if_silent()
    with _problems(), waiting(f"asking the hub for {repository.id}", timeout_s=constants.HF_HUB_ETAG_TIMEOUT):
        found = HfApi().repo_info(
            repository.id,
            repo_type=repository.kind,
            revision=commit or repository.revision,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            files_metadata=True,
        )
        digests = {it.rfilename: it.lfs.sha256 if it.lfs else it.blob_id for it in found.siblings or ()}  # pyright: ignore[reportAttributeAccessIssue]
        if not COMMIT.fullmatch(found.sha or ""):
            raise ValueError("no commit")
    known = {path: digest if DIGEST.fullmatch(digest or "") else None for path, digest in digests.items()}
    return Listing(str(found.sha), known)


def _complete(repository: Repository, listing: Listing, chosen: Sequence[str]) -> Snapshot:
    """Download the files that are missing, and fetch damaged ones again."""
    folder = _snapshot_folder(repository, listing.commit)
    missing = [path for path in chosen if not (folder / path).is_file()]
    if missing:
        log.info("fetching %s, commit %s: %s", repository.id, listing.commit, ", ".join(missing))
    for path in chosen:
        if path in missing:
            _download(repository, listing.commit, path)
        elif not _is_intact(folder / path, listing.digests[path]):
            log.warning("%s is damaged in the hub's cache; fetching it again", folder / path)
            _download(repository, listing.commit, path, anew=True)
        else:
            continue
        if not _is_intact(folder / path, listing.digests[path]):
            _download(repository, listing.commit, path, anew=True)  # a body may be damaged on its way
            if not _is_intact(folder / path, listing.digests[path]):
                (folder / path).resolve().unlink(missing_ok=True)
                raise UnavailableError(f"{path} does not have the hash that the hub declares, twice")
    return Snapshot(folder, listing.commit, tuple(chosen))


def _intact(repository: Repository, listing: Listing, chosen: Sequence[str]) -> Snapshot:
    """Return the chosen files in the cache. Raises `UnavailableError` if one is missing or damaged."""
    folder = _snapshot_folder(repository, listing.commit)
    for path in chosen:
        if not (folder / path).is_file():
            raise UnavailableError(f"{path} is not cached on this machine")
        if not _is_intact(folder / path, listing.digests[path]):
            raise UnavailableError(f"{folder / path} is damaged")
    return Snapshot(folder, listing.commit, tuple(chosen))


def _download(repository: Repository, commit: str, path: str, *, anew: bool = False) -> None:
    from huggingface_hub import hf_hub_download

    present = _snapshot_folder(repository, commit) / path
    if anew and present.is_file() and not present.is_symlink():  # on a file system without links the client keeps it
        present.unlink()
    with _problems():
        hf_hub_download(repository.id, path, repo_type=repository.kind, revision=commit, force_download=anew)


@contextmanager
def _problems() -> Iterator[None]:
    """Turn an error of the hub's client inside the block into an `UnavailableError` with a reason."""
    try:
        yield
    except Exception as error:  # of any type: those of httpx, of xet, of the file system, of JSON that is none
        problem = reason(error)
        if is_silence(error):
            _silent[_endpoint()] = (time.monotonic() + PAUSE_S, problem)
        raise UnavailableError(problem) from error


def _raise_if_silent() -> None:
    """Raise again what came of the last question, if that was no answer: the next would be waited for as long."""
    until, problem = _silent.get(_endpoint(), (0.0, ""))
    if time.monotonic() < until:
        raise UnavailableError(problem)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_intact(path: Path, digest: str | None) -> bool:
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


def _snapshot_folder(repository: Repository, commit: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / repository.cache_name / "snapshots" / commit


def _found_in_cache(repository: Repository, commit: str | None) -> Listing:
    """List what another program has downloaded, whether or not that is complete."""
    from huggingface_hub import constants

    try:
        commit = commit or Path(constants.HF_HUB_CACHE, repository.cache_name, "refs", repository.revision).read_text()
    except (OSError, ValueError):
        raise UnavailableError("") from None
    if not COMMIT.fullmatch(commit):
        raise UnavailableError("")
    folder = _snapshot_folder(repository, commit)
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    if not paths:
        raise UnavailableError("")
    return Listing(commit, dict.fromkeys(paths))


def _memory(repository: Repository, revision: str) -> Path:
    return cache_folder() / "hub" / repository.cache_name / f"{quote(revision, safe='')}.json"


def _remember(repository: Repository, listing: Listing) -> None:
    """Store what was listed, by revision and by commit. Both are written only after all files are complete."""
    content = json.dumps({"commit": listing.commit, "digests": listing.digests}).encode()
    for revision in (listing.commit, repository.revision):
        path = _memory(repository, revision)
        try:
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content)
        except OSError as error:  # works without, but cannot tell later offline whether a copy is complete
            log.debug("%s cannot be written: %s", path, error)


def _remembered(repository: Repository, commit: str | None) -> Listing | None:
    """Return what the hub listed for a commit, or when this revision was last fetched. None if that is unknown."""
    try:
        values = json.loads(_memory(repository, commit or repository.revision).read_text(encoding="utf-8"))
        found = Listing(values["commit"], dict(values["digests"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = COMMIT.fullmatch(str(found.commit)) and found.commit == (commit or found.commit)
    known = all(digest is None or DIGEST.fullmatch(str(digest)) for digest in found.digests.values())
    return found if fits and known else None
