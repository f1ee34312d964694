"""Files of the hub are at one commit and have their hashes, or a person reads one line that says why not."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.system.errors import UserError
from rosa_bench.system.hub import cache
from rosa_bench.system.hub import repository as hub_module
from rosa_bench.system.hub.cache import Repository, Snapshot
from rosa_bench.system.hub.repository import fetch

TOY = Repository("some/toy", "model")
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 40,
    "model-2.safetensors": b"second" * 999,
}
TOKEN = "hf_averysecrettoken"


def everything(paths: Sequence[str]) -> list[str]:
    return sorted(paths)


def get(commit: str | None = None, repository: Repository = TOY) -> Snapshot:
    return fetch(repository, everything, what="model=toy", remedies=["connect", "set model.path=FOLDER"], commit=commit)


def assert_content(found: Snapshot, files: dict[str, bytes] = FILES) -> None:
    assert {path: (found.folder / path).read_bytes() for path in found.files} == files


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.resolve().write_bytes(bytes(content))


@pytest.fixture
def hub(empty_hub: Any) -> Any:
    return empty_hub


@pytest.fixture
def toy(hub: Any, here: None) -> str:
    return hub.put(TOY.id, FILES)


@pytest.fixture
def here(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the hub's client, which has read its settings already, to the loopback hub."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_the_commit_is_asked_once_and_files_are_downloaded_once(hub: Any, toy: str) -> None:
    found = get()
    assert found.commit == toy
    assert_content(found)
    assert len(hub.downloads()) == len(FILES)
    before = len(hub.requests)
    assert get() == found
    assert hub.requests[before:] == ["GET /api/models/some/toy/revision/main"]
    assert get(commit=toy) == found
    assert len(hub.requests) == before + 1  # a commit never changes, so nothing is asked


@pytest.mark.parametrize("cache", ["~nobody-of-this-name/cache", "{tmp_path}/file/cache"])
def test_without_a_cache_of_ours_the_hub_is_used_all_the_same(
    toy: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROSA_BENCH_CACHE", cache.format(tmp_path=tmp_path))
    for _ in range(2):
        found = get()
        assert_content(found)
        assert found.commit == toy


def test_a_branch_that_moved_is_followed_unless_a_commit_is_asked_for(hub: Any, toy: str) -> None:
    first = get()
    second = hub.put(TOY.id, {**FILES, "config.json": b'{"a": 2}'})
    assert get().commit == second
    assert get(commit=toy) == first
    assert_content(get(commit=toy))
    assert get(repository=TOY._replace(revision=toy)) == first


def test_a_commit_that_is_not_cached_is_downloaded_although_the_branch_has_moved(hub: Any, toy: str) -> None:
    hub.put(TOY.id, {"config.json": b"{}"})
    found = get(commit=toy)
    assert found.commit == toy
    assert_content(found)


@pytest.mark.parametrize("path", FILES)
def test_a_damaged_file_in_the_cache_is_fetched_again_and_named(
    toy: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    flip(get().folder / path)
    assert_content(get())
    assert f"{path} is damaged in the hub's cache; fetching it again" in caplog.text


def test_a_file_that_was_deleted_or_cut_in_the_cache_is_fetched_again(toy: str) -> None:
    folder = get().folder
    (folder / "model.safetensors").resolve().unlink()
    (folder / "config.json").resolve().write_bytes(b"{")
    assert_content(get())


def test_a_cache_without_links_is_checked_and_mended_too(toy: str, offline: Callable[[], None]) -> None:
    folder = get().folder
    for path in FILES:  # as on a file system that has no links
        content = (folder / path).read_bytes()
        (folder / path).unlink()
        (folder / path).write_bytes(content)
    assert_content(get())
    flip(folder / "model.safetensors")
    assert_content(get())
    flip(folder / "config.json")
    offline()
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        get()


@pytest.mark.parametrize("commit", ["../../../..", "main", "0" * 39, ""])
def test_a_reference_in_the_cache_that_is_no_commit_is_never_followed(
    toy: str, offline: Callable[[], None], tmp_path: Path, commit: str
) -> None:
    folder = tmp_path / "hub" / TOY.cache_name / "refs"
    folder.mkdir(parents=True)
    (folder / "main").write_text(commit)
    offline()
    with pytest.raises(UserError, match="is not cached on this machine"):
        get()


@pytest.mark.parametrize("commit", ["../..", "main", ""])
def test_a_pinned_commit_that_is_none_is_refused(toy: str, commit: str) -> None:
    with pytest.raises(UserError, match=r"model=toy: .* is not a commit; set model\.path=FOLDER"):
        get(commit=commit)


def test_a_damaged_file_is_never_used_without_the_hub(toy: str, offline: Callable) -> None:
    path = get().folder / "model.safetensors"
    flip(path)
    offline()
    with pytest.raises(UserError, match=rf"HF_HUB_OFFLINE.*{path} is damaged; connect, or set model\.path"):
        get()


def test_a_body_damaged_once_is_fetched_again(hub: Any, toy: str, faults: Any) -> None:
    hub.fault = faults.damaged(1)
    assert_content(get())


def test_a_body_that_never_has_its_hash_is_refused_and_not_kept(hub: Any, toy: str, faults: Any) -> None:
    hub.fault = faults.damaged(99)
    with pytest.raises(UserError, match="does not have the hash that the hub declares"):
        get()
    hub.fault = None
    assert_content(get())


FAULTS = {
    "401": "127.0.0.1 refuses access; check the name and HF_TOKEN (status 401)",
    "403": "127.0.0.1 refuses access; check the name and HF_TOKEN (status 403)",
    "404": "127.0.0.1 does not have it; check the name, and HF_TOKEN if it is private (status 404)",
    "429": "127.0.0.1 asks to wait (status 429)",
    "500": "127.0.0.1 answers with an error (status 500)",
    "503": "127.0.0.1 answers with an error (status 503)",
    "portal": "127.0.0.1 does not answer like a hub, but perhaps like a network's log-in page",
    "black_hole": "127.0.0.1 does not answer within 1 s",
    "gone": "127.0.0.1 cannot be reached",
    "offline": "127.0.0.1 is not asked, because HF_HUB_OFFLINE is set",
}


@pytest.fixture
def break_hub(hub: Any, faults: Any, offline: Callable[[], None]) -> Callable[[str], None]:
    def act(fault: str) -> None:
        if fault == "gone":
            hub.close()
        elif fault == "offline":
            offline()
        else:
            hub.fault = faults.status(int(fault)) if fault.isdigit() else getattr(faults, fault)

    return act


@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_cache_a_broken_hub_is_one_line_with_the_ways_out(
    toy: str, break_hub: Callable[[str], None], fault: str
) -> None:
    break_hub(fault)
    with pytest.raises(UserError) as caught:
        get()
    assert str(caught.value) == (
        f"model=toy cannot be fetched from the hub (some/toy: {FAULTS[fault]}) and is not cached on this machine; "
        "connect, or set model.path=FOLDER"
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_complete_cache_the_run_goes_on_and_says_so(
    toy: str, break_hub: Callable[[str], None], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = get()
    break_hub(fault)
    assert get() == expected
    [line] = [it.getMessage() for it in caplog.records if "going on" in it.getMessage()]
    assert line == f"{FAULTS[fault]}; going on with the cached copy of some/toy, commit {toy}"
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("bodies", [1, 2])
@pytest.mark.slow  # the client tries again for half a minute
def test_a_hub_that_is_gone_after_some_files_leaves_nothing_that_counts_as_complete(
    hub: Any, toy: str, faults: Any, offline: Callable, bodies: int
) -> None:
    hub.fault = faults.gone_after(bodies)
    with pytest.raises(UserError, match=r"cannot be reached|breaks the connection off"):
        get()
    offline()
    with pytest.raises(UserError, match="is not cached on this machine"):
        get()


@pytest.mark.slow
def test_a_body_that_is_always_cut_short_is_refused(hub: Any, toy: str, faults: Any) -> None:
    hub.fault = faults.cut_short
    with pytest.raises(UserError, match=r"model=toy cannot be fetched from the hub \(some/toy: 127\.0\.0\.1 "):
        get()


def test_a_slow_hub_is_waited_for(hub: Any, toy: str, faults: Any) -> None:
    hub.fault = faults.slow
    assert_content(get())


def test_an_update_that_fails_leaves_the_last_complete_commit_in_use(
    hub: Any, toy: str, faults: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = get()
    hub.put(TOY.id, {path: content + b"new" for path, content in FILES.items()})
    hub.fault = faults.damaged(99)
    assert get() == first
    assert_content(first)
    assert f"going on with the cached copy of some/toy, commit {toy}" in caplog.text


def test_files_fetched_before_the_branch_moved_stay_usable_offline(
    hub: Any, toy: str, offline: Callable[[], None]
) -> None:
    def one(path: str) -> Snapshot:
        return fetch(TOY, lambda paths: [it for it in paths if it == path], what="w", remedies=["r", "s"])

    first = one("config.json")
    moved = hub.put(TOY.id, {path: content + b"new" for path, content in FILES.items()})
    second = one("model.safetensors")
    assert (first.commit, second.commit) == (toy, moved)
    offline()
    assert one("config.json") == first
    assert one("model.safetensors") == second
    with pytest.raises(UserError, match="is not cached"):
        one("model-2.safetensors")


def test_a_copy_that_another_program_has_downloaded_is_used_offline(toy: str, hub: Any, offline: Callable) -> None:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(TOY.id))
    offline()
    assert_content(get())
    flip(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        get()


@pytest.mark.parametrize("sha", ["../../../elsewhere", "", None, "main", 7])
def test_a_commit_that_is_none_is_never_part_of_a_path(
    hub: Any, toy: str, faults: Any, tmp_path: Path, sha: Any
) -> None:
    def lie(handler: Any, path: str) -> bool:
        if "/revision/" in path:
            handler.send_json({"id": "some/toy", "sha": sha, "siblings": [{"rfilename": "config.json"}]})
        return "/revision/" in path

    hub.fault = lie
    with pytest.raises(UserError, match="does not answer like a hub"):
        get()
    assert not [path for path in tmp_path.rglob("*") if "elsewhere" in path.name]


def test_a_hub_that_answers_with_another_commit_is_not_believed(hub: Any, toy: str, faults: Any) -> None:
    def lie(handler: Any, path: str) -> bool:
        if "/revision/" in path:
            handler.send_json({"id": "some/toy", "sha": toy, "siblings": [{"rfilename": "config.json"}]})
        return "/revision/" in path

    hub.fault = lie
    assert get().files == ("config.json",)
    with pytest.raises(UserError, match="does not answer like a hub"):
        get(commit="f" * 40)


@pytest.mark.parametrize("path", ["../../../../escaped.safetensors", "/tmp/escaped.safetensors"])
def test_a_path_that_leads_elsewhere_is_refused(hub: Any, toy: str, tmp_path: Path, path: str) -> None:
    hub.put(TOY.id, {path: b"x"})
    with pytest.raises(UserError, match="model=toy"):
        get()
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"{}", b'["../x"]', b"[3]", b"4", b"\xff", b'{"config.json": 5}', b'{"config.json": "z"}',
    b"[" * 100_000,
])  # fmt: skip
def test_a_damaged_note_about_the_cache_is_as_good_as_none(toy: str, content: bytes, tmp_path: Path) -> None:
    get()
    notes = list((tmp_path / "cache" / "hub").rglob("*.json"))
    assert len(notes) == 2
    for note in notes:
        note.write_bytes(content)
    assert_content(get())


def test_a_cache_that_cannot_be_written_changes_nothing(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(cache, "write_atomic", refuse)
    assert_content(get())
    assert_content(get())


@pytest.mark.parametrize("name", ["a b/c", "a/b/c", "..", "a/b.git", "/tmp/x"])
def test_a_name_that_no_repository_can_have_is_one_line(here: None, name: str) -> None:
    with pytest.raises(UserError, match="cannot have a repository of this name"):
        get(repository=Repository(name, "model"))


def test_a_hub_that_does_not_answer_is_not_asked_again_at_once(
    hub: Any, toy: str, faults: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = get()
    hub.fault = faults.black_hole
    before = len(hub.requests)
    assert [get(), get()] == [expected, expected]
    assert len(hub.requests) == before + 1
    assert caplog.text.count("does not answer within 1 s; going on") == 2
    hub.fault = None
    monkeypatch.setattr(hub_module, "PAUSE_S", 0.0)
    monkeypatch.setattr(hub_module, "_silent", {})
    get()
    assert len(hub.requests) == before + 2


def test_waiting_is_announced(hub: Any, toy: str, faults: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    from rosa_bench.system.hub import network

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(network, "PATIENCE_S", 0.1)
    hub.fault = faults.black_hole
    with pytest.raises(UserError):
        get()
    assert "asking the hub for some/toy; waiting up to 1 s for 127.0.0.1" in caplog.text


def test_the_hashes_are_those_of_git_and_of_sha256(hub: Any, toy: str) -> None:
    git = hashlib.sha1(b"blob 8\0" + FILES["config.json"]).hexdigest()
    names = {path: (get().folder / path).resolve().name for path in FILES}
    assert names["config.json"] == git
    assert names["model.safetensors"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
