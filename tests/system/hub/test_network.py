import pytest

from rosa_bench.system.errors import UserError
from rosa_bench.system.hub.network import check_environment


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("endpoint", [
    None, "https://huggingface.co", "https://huggingface.co/", "http://127.0.0.1:8080", "https://mirror.example/hub/api",
    "https://user:secret@mirror.example", "http://[::1]:80",
])  # fmt: skip
def test_addresses_of_hubs_are_accepted(monkeypatch: pytest.MonkeyPatch, endpoint: str | None) -> None:
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    check_environment()


@pytest.mark.parametrize("endpoint", [
    "", "huggingface.co", "localhost:8080", "/srv/hub", "~/hub", "ftp://hub.example", "file:///srv/hub", "https://",
    "https://:443", "https://[", "http://a b", "https://hub.example:port", "https://hub.example:99999", "http://a\nb",
    "None", "C:\\hub",
])  # fmt: skip
def test_an_endpoint_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(
        UserError, match=r"HF_ENDPOINT=.* is not the address of a hub.*https://huggingface\.co"
    ) as caught:
        check_environment()
    assert "\n" not in str(caught.value)


def test_a_password_in_an_endpoint_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "user:secret@mirror.example")
    with pytest.raises(UserError) as caught:
        check_environment()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("value", ["", "abc", "0", "-1", "1.5", "10s", "²", "inf"])
def test_time_outs_that_the_client_cannot_read_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value} is not a number of seconds"):
        check_environment()
    monkeypatch.setenv(name, "30")
    check_environment()
