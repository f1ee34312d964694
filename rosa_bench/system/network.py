"""Whether the Hugging Face hub can be reached."""

import os
import socket
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def offline_if_unreachable() -> None:
    """Set ``HF_HUB_OFFLINE`` when the hub's host does not answer, so that cached copies are used at once.

    The hub's client would retry for a minute before it looks into its cache. To be called before `transformers` or
    `datasets` is imported: they read the variable then. Behind a proxy nothing is probed, because only the proxy knows.
    """
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies():
        return
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=TIMEOUT_S).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
