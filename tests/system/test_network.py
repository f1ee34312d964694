import os
import socket
import urllib.request
from typing import Any

import pytest

from rosa_bench.system.network import offline_if_unreachable


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record the addresses probed on a machine without hub settings. Every address answers."""
    tried: list[tuple[str, int]] = []

    class Connection:
        def close(self) -> None:
            pass

    def connect(address: tuple[str, int], **options: Any) -> Connection:
        assert 0 < options["timeout"] <= 10
        tried.append(address)
        return Connection()

    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "original")  # so that the variable is restored even if the code under test sets it
        monkeypatch.delenv(name)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


def refuse(monkeypatch: pytest.MonkeyPatch, error: type[OSError]) -> None:
    def connect(*_address: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)


@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError, socket.gaierror, OSError])
def test_unreachable_hub_switches_to_offline_mode(
    probes: list, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    refuse(monkeypatch, error)
    offline_if_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_reachable_hub_stays_online(probes: list[tuple[str, int]]) -> None:
    offline_if_unreachable()
    assert "HF_HUB_OFFLINE" not in os.environ
    assert probes == [("huggingface.co", 443)]


@pytest.mark.parametrize(("endpoint", "address"), [
    ("https://hub.example", ("hub.example", 443)),
    ("http://hub.example", ("hub.example", 80)),
    ("http://hub.example:8080/path", ("hub.example", 8080)),
])  # fmt: skip
def test_mirror_is_probed_instead_of_the_hub(
    probes: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, endpoint: str, address: tuple[str, int]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    offline_if_unreachable()
    assert probes == [address]


def test_nothing_is_probed_behind_a_proxy(probes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    refuse(monkeypatch, ConnectionRefusedError)
    offline_if_unreachable()
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize("value", ["0", "1"])
def test_user_setting_is_respected(probes: list, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    refuse(monkeypatch, ConnectionRefusedError)
    offline_if_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == value
    assert probes == []
