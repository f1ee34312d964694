"""Check whether the Hugging Face hub can be reached."""

import os
import socket
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def offline_if_unreachable() -> None:
    """Set ``HF_HUB_OFFLINE`` if the hub does not answer, so that cached copies are used immediately.

    Otherwise the hub's client retries for a minute before it uses its cache. Call this before importing `transformers`
    or `datasets`, which read the variable on import. Behind a proxy nothing is probed, because a direct connection
    says nothing about what the proxy can reach.
    """
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies():
        return
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=TIMEOUT_S).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
