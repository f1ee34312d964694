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
PATIENCE_S = 3.0  # an answer that takes longer is announced


def check_environment() -> None:
    """Raise `UserError` for variables that the hub's client cannot use. It reads them when it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
    try:
        address = urlsplit(endpoint)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        usable = usable and endpoint.isprintable() and " " not in endpoint
    except ValueError:
        usable = False
    if not usable:
        shown = endpoint if "@" not in endpoint else "..."  # it may contain a password
        raise UserError(
            f"HF_ENDPOINT={shown} is not the address of a hub; set it to one like {DEFAULT_ENDPOINT}, or unset it"
        )
    for name in TIMEOUTS:
        value = os.environ.get(name)
        if value is not None and not (value.strip().isdecimal() and int(value) > 0):
            raise UserError(f"{name}={value} is not a number of seconds; set it to a whole number such as 10")


def reason(error: BaseException) -> str:
    """Explain an error of the hub's client in one clause, without addresses, headers or tokens."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    errors = list(_causes(error))
    names = {kind.__name__ for one in errors for kind in type(one).__mro__}
    host = _host()
    if isinstance(error, HFValidationError):
        return "this is not the name of a repository"
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set"
    status = next((one.response.status_code for one in errors if getattr(one, "response", None) is not None), None)  # pyright: ignore[reportAttributeAccessIssue]
    if "GatedRepoError" in names:
        return f"{host} asks to accept its terms (status {status}); do so on its page, and set HF_TOKEN"
    if "RevisionNotFoundError" in names:
        return f"{host} does not have this revision"
    if status in (401, 403):
        return f"{host} refuses access (status {status}); check the name and HF_TOKEN"
    if status == 404:
        return f"{host} does not have it (status 404); check the name, and HF_TOKEN if it is private"
    if status == 429:
        return f"{host} asks to wait (status 429)"
    if status is not None:
        return f"{host} answers with an error (status {status})"
    if "ProxyError" in names or any("proxy" in str(one).lower() for one in errors if isinstance(one, ValueError)):
        return "the proxy cannot be used; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if "TimeoutException" in names:
        return f"{host} does not answer within {constants.HF_HUB_ETAG_TIMEOUT} s"
    if "ConnectError" in names:
        trust = any("CERTIFICATE" in str(one).upper() for one in errors)
        return f"the certificate of {host} is not trusted" if trust else f"{host} cannot be reached"
    if "HTTPError" in names:
        return f"{host} breaks the connection off"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the cache'}: {error.strerror}"
    if any("size" in str(one) for one in errors if isinstance(one, OSError)):
        return f"{host} sends less than it announces"
    if isinstance(error, ValueError | LookupError | TypeError | AttributeError | OSError):  # not the hub's JSON
        return f"{host} does not answer like a hub, but perhaps like a network's log-in page"
    return f"the hub's client fails with {type(error).__name__}"


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
