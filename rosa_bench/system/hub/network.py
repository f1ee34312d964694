"""What the hub's client is configured with, and what its errors mean."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from rosa_bench.system.errors import UserError

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
# What the client's own types of errors say about the hub, in the order in which they are looked for.
MEANINGS = {
    "HFValidationError": "cannot have a repository of this name",
    "OfflineModeIsEnabled": "is not asked, because HF_HUB_OFFLINE is set",
    "GatedRepoError": "asks to accept terms first; do so on the repository's page, and set HF_TOKEN",
    "RevisionNotFoundError": "does not have this revision",
}
STATUSES = {
    401: "refuses access; check the name and HF_TOKEN",
    403: "refuses access; check the name and HF_TOKEN",
    404: "does not have it; check the name, and HF_TOKEN if it is private",
    429: "asks to wait",
}
PROXY = "is behind a proxy that cannot be used; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
NOT_JSON = {"ValueError", "LookupError", "TypeError", "AttributeError", "OSError"}
PATIENCE_S = 3.0  # an answer that takes longer is announced


def check_environment() -> None:
    """Raise `UserError` for variables that the hub's client cannot use. It reads them when it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
    try:
        address = urlsplit(endpoint)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        usable = usable and endpoint.isprintable() and " " not in endpoint  # `urlsplit` drops line breaks
    except ValueError:
        usable = False
    if not usable:
        shown = endpoint if endpoint.isprintable() and "@" not in endpoint else "..."  # it may contain a password
        raise UserError(
            f"HF_ENDPOINT={shown} is not the address of a hub; set it to one like {DEFAULT_ENDPOINT}, or unset it"
        )
    for name in TIMEOUTS:
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdecimal() and int(value) > 0):
            raise UserError(f"{name}={value} is not a number of seconds; set it to a whole number such as 10")


def is_silence(error: BaseException) -> bool:
    """Return whether an error of the hub's client means that nobody answered."""
    return bool({"TimeoutException", "ConnectError"} & {kind.__name__ for kind in type(error).__mro__})


def reason(error: BaseException) -> str:
    """Explain an error of the hub's client in one clause, without addresses, headers or tokens."""
    from huggingface_hub import constants

    errors = list(_causes(error))
    names = {kind.__name__ for one in errors for kind in type(one).__mro__}
    responses = (getattr(one, "response", None) for one in errors)
    status = next((response.status_code for response in responses if response is not None), None)
    texts = " ".join(str(one) for one in errors).lower()
    known = (
        *((name in names, words) for name, words in MEANINGS.items()),
        (status is not None, f"{STATUSES.get(status or 0, 'answers with an error')} (status {status})"),
        ("ProxyError" in names or ("proxy" in texts and "ValueError" in names), PROXY),
        ("TimeoutException" in names, f"does not answer within {constants.HF_HUB_ETAG_TIMEOUT} s"),
        ("ConnectError" in names and "certificate" in texts, "has a certificate that is not trusted"),
        ("ConnectError" in names, "cannot be reached"),
        ("HTTPError" in names, "breaks the connection off"),
        (isinstance(error, OSError) and bool(error.strerror), f"has files that cannot be stored here: {_place(error)}"),
        ("OSError" in names and "size" in texts, "sends less than it announces"),
        (bool(names & NOT_JSON), "does not answer like a hub, but perhaps like a network's log-in page"),
        (True, f"ends the client with {type(error).__name__}"),
    )
    return f"{_host()} {next(words for holds, words in known if holds)}"


def _place(error: BaseException) -> str:
    return f"{getattr(error, 'filename', None) or 'the cache'}: {getattr(error, 'strerror', '')}"


@contextmanager
def waiting(what: str, *, timeout_s: float) -> Iterator[None]:
    """Log what the program waits for, if the block takes longer than a moment."""
    timer = threading.Timer(PATIENCE_S, log.info, [f"{what}; waiting up to {timeout_s:g} s for {_host()}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _host() -> str:
    return urlsplit(os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)).hostname or "the hub"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
