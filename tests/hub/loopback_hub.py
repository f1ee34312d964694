"""A Hugging Face hub on 127.0.0.1: repositories, commits, large files behind a redirect, and every way to fail.

It answers what `huggingface_hub` asks when it downloads: a repository's commit and files, its tree, HEAD and GET of a
file, and ranges. Large files have their SHA-256 as etag and are served from another path, as on the hub; others have
git's SHA-1.
"""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".bin", ".h5", ".onnx")
PORTAL = b"<html><body>Welcome to the network. Please log in.</body></html>"


@dataclass
class File:
    """The content of one file, and its hashes."""

    content: bytes

    @property
    def sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    """Commits by hash, and the commit of each branch."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"  # pyrefly: ignore[bad-override-mutable-attribute]

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
        pass

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        hub.headers.append(dict(self.headers))
        if hub.fault is not None and hub.fault(self, path):
            return
        kind, name, what, revision, file = parse(path)
        repository = hub.repositories.get((kind, name))
        if what == "large":
            self.send_body(hub.large[name], {"ETag": f'"{name}"'})
            return
        if repository is None:
            self.send_error_code(404, "RepoNotFound")
            return
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self.send_error_code(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        if what == "info":
            siblings = [described(path, it) for path, it in files.items()]
            self.send_json({"_id": "1", "id": name, "sha": commit, "private": False, "gated": False, "tags": [],
                            "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip
        elif what == "tree":
            self.send_json([in_tree(path, it) for path, it in files.items()])
        elif file not in files:
            self.send_error_code(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._send_file(commit, file, files[file])

    def _send_file(self, commit: str, path: str, file: File) -> None:
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not path.endswith(LARGE):
            self.send_body(file.content, {**headers, "ETag": f'"{file.sha1}"'})
            return
        self.server.hub.large[file.sha256] = file.content
        self.send_response(302)
        for name, value in {
            **headers, "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content)),
            "Location": f"{self.server.hub.large_url}/large/{file.sha256}", "Content-Length": "0",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, content: bytes, headers: dict[str, str], *, announced: int | None = None) -> None:
        start, status = 0, 200
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str((announced or len(content)) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:])

    def send_json(self, values: Any) -> None:
        self.send_body(json.dumps(values).encode(), {"Content-Type": "application/json"})

    def send_error_code(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "X-Error-Code": code,
            "X-Error-Message": code,
            "Content-Length": "0",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()


def parse(path: str) -> tuple[str, str, str, str, str]:
    """Return kind, repository, what is asked (info, tree, file or large), revision and file of a request's path."""
    parts = path.strip("/").split("/")
    if parts[0] == "large":
        return "", parts[1], "large", "", ""
    if parts[0] == "api":
        kind, name, rest = parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4:]
        what = {"revision": "info", "tree": "tree"}.get(rest[0] if rest else "revision", "other")
        return kind, name, what, "/".join(rest[1:]) or "main", ""
    kind = "dataset" if parts[0] == "datasets" else "model"
    parts = parts[1:] if kind == "dataset" else parts
    revision = parts[3] if len(parts) > 3 else ""
    return kind, "/".join(parts[:2]), "file", revision, "/".join(parts[4:])


def described(path: str, file: File) -> dict[str, Any]:
    large = (
        {"lfs": {"sha256": file.sha256, "size": len(file.content), "pointerSize": 134}} if path.endswith(LARGE) else {}
    )
    return {"rfilename": path, "size": len(file.content), "blobId": file.sha1, **large}


def in_tree(path: str, file: File) -> dict[str, Any]:
    large = {"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}} if path.endswith(LARGE) else {}
    return {"type": "file", "oid": file.sha1, "size": len(file.content), "path": path, **large}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: "LoopbackHub"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class LoopbackHub:
    """The server. ``fault`` is called before each answer, and returns whether it has answered instead.

    requests  method and path of every request so far; ``headers`` what each came with
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.fault: Callable[[Handler, str], bool] | None = None
        self.closing = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.large_url = f"http://localhost:{self.server.server_port}"  # another host, as the hub has one for these
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def put(self, name: str, files: dict[str, bytes], *, kind: str = "model", branch: str = "main") -> str:
        """Commit these files as the whole content of a branch, and return the commit."""
        repository = self.repositories.setdefault((kind, name), Repository())
        commit = hashlib.sha1(repr((name, branch, sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = {path: File(content) for path, content in files.items()}
        repository.branches[branch] = commit
        return commit

    def downloads(self) -> list[str]:
        """Return the bodies of files that were asked for."""
        return [it for it in self.requests if it.startswith("GET") and not it.startswith("GET /api/")]

    def close(self) -> None:
        """Stop answering, and refuse connections."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


# Ways to fail


def status(code: int, error: str = "") -> Callable[[Handler, str], bool]:
    """Answer every request with this status."""

    def fail(handler: Handler, _path: str) -> bool:
        handler.send_error_code(code, error)
        return True

    return fail


def portal(handler: Handler, _path: str) -> bool:
    """Answer every request with a page, as a network does that wants a log-in first."""
    handler.send_body(PORTAL, {"Content-Type": "text/html"})
    return True


def black_hole(handler: Handler, _path: str) -> bool:
    """Accept the connection and never answer."""
    handler.server.hub.closing.wait(120)
    handler.close_connection = True
    return True


def slow(handler: Handler, path: str) -> bool:
    """Send a large file in eight pieces, with pauses."""
    if not path.startswith("/large/") or handler.command != "GET":
        return False
    content = handler.server.hub.large[path.rpartition("/")[2]]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    size = len(content) // 8 + 1
    for start in range(0, len(content), size):
        handler.wfile.write(content[start : start + size])
        handler.wfile.flush()
        time.sleep(0.1)
    return True


def cut_short(handler: Handler, path: str) -> bool:
    """Announce a whole large file, send half of what is asked, and close the connection."""
    if not path.startswith("/large/") or handler.command != "GET":
        return False
    content = handler.server.hub.large[path.rpartition("/")[2]]
    handler.send_body(content[: len(content) // 2], {}, announced=len(content))
    handler.close_connection = True
    return True


def damaged(times: int) -> Callable[[Handler, str], bool]:
    """Flip a bit in the first large bodies."""
    left = [times]

    def fail(handler: Handler, path: str) -> bool:
        if not path.startswith("/large/") or handler.command != "GET" or not left[0]:
            return False
        left[0] -= 1
        content = bytearray(handler.server.hub.large[path.rpartition("/")[2]])
        content[-1] ^= 1
        handler.send_body(bytes(content), {})
        return True

    return fail


def gone_after(bodies: int) -> Callable[[Handler, str], bool]:
    """Stop the server, so that it refuses connections, after this many bodies of files."""

    def fail(handler: Handler, path: str) -> bool:
        hub = handler.server.hub
        if len(hub.downloads()) <= bodies:
            return False
        handler.close_connection = True
        threading.Thread(target=hub.close, daemon=True).start()
        return True

    return fail
