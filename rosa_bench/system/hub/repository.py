"""Files of a repository on the Hugging Face hub: at one commit, each compared with its hash.

The hub is asked once for a commit and its list of files. Missing files are downloaded into the hub's own cache. Callers
then read a local folder, so nothing after this can reach the network. If the hub does not answer as it should, the last
complete copy in the cache is used, and the log says so.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.cache import (
    COMMIT,
    DIGEST,
    Listing,
    Repository,
    Snapshot,
    commits,
    found_in_cache,
    is_intact,
    listed,
    remember,
    snapshot_folder,
)
from rosa_bench.system.hub.network import is_silence, reason, waiting

log = logging.getLogger(__name__)

PAUSE_S = 300.0  # a hub that did not answer is not asked again for this long
_silent: dict[str, tuple[float, str]] = {}  # by address: until when, and what happened


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
    if commit is not None and not COMMIT.fullmatch(commit):
        raise UserError(f"{what}: {commit!r} is not a commit; {remedies[-1]}")
    try:
        listing = (listed(repository, commit) if commit else None) or _ask(repository, commit)
        found = _complete(repository, listing, choose(list(listing.digests)))
    except UnavailableError as problem:
        try:
            found = _cached(repository, commit, choose)
        except UnavailableError as missing:
            asked = f"{repository.id}, commit {commit}" if commit not in (None, repository.revision) else repository.id
            ways = ", ".join(remedies[:-1]) + f", or {remedies[-1]}"
            raise UserError(
                f"{what} cannot be fetched from the hub ({asked}: {problem}) and {missing}; {ways}"
            ) from problem
        log.warning("%s; going on with the cached copy of %s, commit %s", problem, repository.id, found.commit)
        return found
    remember(repository, listing)
    return found


def _cached(repository: Repository, commit: str | None, choose: Callable[[Sequence[str]], list[str]]) -> Snapshot:
    """Return the chosen files of the newest complete commit in the cache.

    Raises `UnavailableError` if there is none, or if one of its files is damaged.
    """
    for known in (commit,) if commit else commits(repository):
        listing = listed(repository, known) or found_in_cache(repository, known)
        try:
            chosen = choose(list(listing.digests))
        except UserError:  # too few files were downloaded
            continue
        folder = snapshot_folder(repository, known)
        if not chosen or not all((folder / path).is_file() for path in chosen):
            continue
        for path in chosen:
            if not is_intact(folder / path, listing.digests[path]):
                raise UnavailableError(f"{folder / path} is damaged")
        return Snapshot(folder, known, tuple(chosen))
    raise UnavailableError("is not cached on this machine")


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
        digests = {it.rfilename: it.lfs.sha256 if it.lfs else it.blob_id for it in found.siblings or ()}  # pyrefly: ignore[missing-attribute]
        if not COMMIT.fullmatch(found.sha or "") or (commit and found.sha != commit):
            raise ValueError("no commit, or another")
    known = {path: digest if DIGEST.fullmatch(digest or "") else None for path, digest in digests.items()}
    return Listing(str(found.sha), known)


def _complete(repository: Repository, listing: Listing, chosen: Sequence[str]) -> Snapshot:
    """Download the files that are missing, and fetch damaged ones again."""
    folder = snapshot_folder(repository, listing.commit)
    missing = [path for path in chosen if not (folder / path).is_file()]
    if missing:
        log.info("fetching %s, commit %s: %s", repository.id, listing.commit, ", ".join(missing))
    for path in chosen:
        if path in missing:
            _download(repository, listing.commit, path)
        elif not is_intact(folder / path, listing.digests[path]):
            log.warning("%s is damaged in the hub's cache; fetching it again", folder / path)
            _download(repository, listing.commit, path, again=True)
        else:
            continue
        if not is_intact(folder / path, listing.digests[path]):
            _download(repository, listing.commit, path, again=True)  # a body may be damaged on its way
            if not is_intact(folder / path, listing.digests[path]):
                (folder / path).resolve().unlink(missing_ok=True)
                raise UnavailableError(f"{path} does not have the hash that the hub declares, twice")
    return Snapshot(folder, listing.commit, tuple(chosen))


def _download(repository: Repository, commit: str, path: str, *, again: bool = False) -> None:
    from huggingface_hub import hf_hub_download

    present = snapshot_folder(repository, commit) / path
    if again and present.is_file() and not present.is_symlink():  # on a file system without links the client keeps it
        present.unlink()
    with _problems():
        hf_hub_download(repository.id, path, repo_type=repository.kind, revision=commit, force_download=again)


@contextmanager
def _problems() -> Iterator[None]:
    """Turn an error of the hub's client inside the block into an `UnavailableError` with a reason."""
    try:
        yield
    except Exception as error:  # of any type: those of httpx, of xet, of the file system, of text that is not JSON
        problem = reason(error)
        if is_silence(error):
            _silent[_endpoint()] = (time.monotonic() + PAUSE_S, problem)
        raise UnavailableError(problem) from error


def _raise_if_silent() -> None:
    """Raise the last error again if the hub did not answer: the next request would wait just as long."""
    until, problem = _silent.get(_endpoint(), (0.0, ""))
    if time.monotonic() < until:
        raise UnavailableError(problem)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
