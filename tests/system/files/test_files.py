import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.files.digest import sha256
from rosa_bench.system.files.folders import check_replaceable, new_folder, remove_unfinished
from rosa_bench.system.files.writable import check_writable


def listing(folder: Path) -> dict[str, bytes | None]:
    """Return every file (with its bytes) and folder below ``folder``, including hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_write_atomic_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "record.json"
    for text in ("one ± ü\n", "two", ""):
        write_atomic(path, text)
        assert listing(path.parent) == {"record.json": text.encode("utf-8")}
    write_atomic(path, b"\x89PNG\r\n\xff")
    assert listing(path.parent) == {"record.json": b"\x89PNG\r\n\xff"}  # bytes are written unchanged


def test_write_atomic_makes_files_readable_by_others(tmp_path: Path) -> None:
    write_atomic(tmp_path / "record.json", "text")
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o644


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_write_atomic_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, exists: bool
) -> None:
    path = tmp_path / "record.json"
    if exists:
        path.write_text("old")
    before = listing(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    if failing == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    text = "\ud800" if failing == "write" else "new"  # a lone surrogate cannot be encoded
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_atomic(path, text)
    assert listing(tmp_path) == before


def test_write_atomic_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)  # a name that the file system takes, but for the temporary one
    with pytest.raises(OSError, match="too long") as raised:
        write_atomic(path, "content")
    assert raised.value.filename == str(path)


def test_write_atomic_syncs_before_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(f"{os.fstat(handle).st_size} {path.read_text()}"))
    write_atomic(path, "brand new")
    assert seen[0] == "9 old"  # all nine bytes written, old file still in place
    assert seen[1].endswith(" brand new")  # then the folder, so that the new name lasts too
    assert len(seen) == 2


def test_new_folder_appears_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    with new_folder(path) as new:
        (new / "weights").write_text("1")
        assert not path.exists()
        assert new.parent == path.parent  # same file system, so that renaming does not copy
    assert listing(path.parent) == {"model": None, "model/weights": b"1"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_new_folder_replaces_the_whole_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("1")
    with new_folder(path) as new:
        (new / "new").write_text("2")
        assert listing(path) == {"old": b"1"}
    assert listing(tmp_path) == {"model": None, "model/new": b"2"}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_new_folder_leaves_nothing_behind_on_error(tmp_path: Path, exists: bool, error: type[BaseException]) -> None:
    path = tmp_path / "model"
    if exists:
        path.mkdir()
        (path / "old").write_text("1")
    before = listing(tmp_path)
    with pytest.raises(error), new_folder(path) as new:
        (new / "half").write_text("2")
        raise error
    assert listing(tmp_path) == before


def test_new_folder_puts_the_old_folder_back_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("1")
    before, rename = listing(tmp_path), Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".rosa-bench-part"):
            raise OSError(errno.ESTALE, "stale handle")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="stale handle"), new_folder(path) as new:
        (new / "new").write_text("2")
    assert listing(tmp_path) == before


def test_a_folder_that_a_killed_process_was_replacing_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".model.earlier").mkdir()
    (tmp_path / ".model.earlier" / "old").write_text("1")
    with pytest.raises(UserError, match="model exists already"):
        check_replaceable(tmp_path / "model", overwrite=False, marks=("old",), remedy="")
    assert listing(tmp_path) == {"model": None, "model/old": b"1"}


def test_new_folder_cleans_up_after_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for folder in (path, tmp_path / ".model.earlier"):
        folder.mkdir()
        (folder / "old").write_text("1")
    with new_folder(path) as new:
        (new / "new").write_text("2")
    assert listing(tmp_path) == {"model": None, "model/new": b"2"}


def test_new_folder_syncs_files_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))
    )
    with new_folder(path) as new:
        (new / "deep").mkdir()
        for name in ("one", "deep/two"):
            (new / name).write_text("1")
    assert seen == [(False, False), (False, False), (True, True)]  # the files, then the directory


# Links, and folders of others


def test_a_link_where_a_file_is_written_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("theirs")
    (tmp_path / "record.json").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "record.json", "ours")
    assert not (tmp_path / "record.json").is_symlink()
    assert listing(tmp_path) == {"record.json": b"ours", "precious": b"theirs"}


@pytest.mark.parametrize("name", ["model", ".model.earlier"])
def test_a_link_where_a_folder_is_written_is_replaced_and_its_target_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("theirs")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    for content in ("one", "two"):
        with new_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text(content)
    assert not (tmp_path / "model").is_symlink()
    expected = {"model": None, "model/weights": b"two", "precious": None, "precious/file": b"theirs"}
    assert listing(tmp_path) == expected


def test_a_link_to_nothing_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    with new_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("ours")
    assert listing(tmp_path) == {"model": None, "model/weights": b"ours"}


def test_only_an_empty_folder_or_one_with_a_file_of_ours_may_be_overwritten(tmp_path: Path) -> None:
    def check(name: str, *, overwrite: bool = True) -> None:
        check_replaceable(tmp_path / name, overwrite=overwrite, marks=("adapter.json",), remedy="use overwrite=true")

    for name in ("empty", "ours", "home", "odd"):
        (tmp_path / name).mkdir()
    for name in ("ours/adapter.json", "ours/notes.txt", "home/notes.txt", "file"):
        (tmp_path / name).write_text("content")
    (tmp_path / "odd" / "adapter.json").mkdir()  # a folder of that name is not a file of ours
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("absent", "empty", "ours"):
        check(name)
    for name in ("home", "odd", "file", "link", "dangling"):
        with pytest.raises(UserError, match=f"{name} is not a folder that was written before, so it is not replaced"):
            check(name)
    for name in ("empty", "ours", "home", "file", "link", "dangling"):
        with pytest.raises(UserError, match=f"{name} exists already; use overwrite=true"):
            check(name, overwrite=False)


def test_remove_unfinished_deletes_only_leftovers_of_that_folder(tmp_path: Path) -> None:
    for name in ("model", "model.x", ".model.x", ".model.earlier", ".models", "other", ".other.x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_unfinished(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".models", ".other.x", "model", "model.x", "other"]
    remove_unfinished(tmp_path / "nowhere" / "model")


@pytest.mark.parametrize(
    "contents",
    [[], [b""], [b"abc"], [b"abc", b"", b"de"], [bytes(range(256)) * 5000, b"x" * (1 << 20)]],
    ids=["no file", "empty", "one", "three", "more than one block"],
)
def test_sha256_equals_hashlib(tmp_path: Path, contents: list[bytes]) -> None:
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert sha256(*paths) == hashlib.sha256(b"".join(contents)).hexdigest()


def test_sha256_known_value(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_check_writable_creates_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "results"
    for _ in range(2):
        check_writable("results_dir", folder)
        assert listing(tmp_path) == {"deep": None, "deep/results": None}


@pytest.mark.parametrize(("name", "reason"), [("file", "File exists"), ("file/results", "Not a directory")])
def test_check_writable_names_setting_folder_and_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        check_writable("results_dir", tmp_path / name)
    assert str(caught.value) == (
        f"results_dir={tmp_path / name} cannot be written to ({reason}); choose another folder with results_dir="
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check_writable_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable("results_dir", tmp_path)


def refusing(reason: int) -> Callable[..., None]:
    """Return a system call that always fails."""

    def refuse(*_: object, **_options: object) -> None:
        raise OSError(reason, os.strerror(reason))

    return refuse


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_a_share_that_refuses_chmod_and_fsync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(reason))
    monkeypatch.setattr(Path, "chmod", refusing(errno.EPERM))
    monkeypatch.setattr(os, "chmod", refusing(errno.EPERM))
    write_atomic(tmp_path / "record.json", "text")
    with new_folder(tmp_path / "model") as new:
        (new / "weights").write_text("1")
    assert listing(tmp_path) == {"model": None, "model/weights": b"1", "record.json": b"text"}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "record.json", "text")
        with new_folder(tmp_path / "model") as new:
            (new / "private").touch(mode=0o600)  # as safetensors makes every file
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "model" / "private").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_to_sync_is_an_error_with_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(reason))
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "record.json", "text")
    assert (caught.value.errno, caught.value.filename) == (reason, str(tmp_path / "record.json"))


@pytest.mark.parametrize("name", ["model", "model/weights.txt", "model/deep/weights.txt"])
def test_an_error_about_a_temporary_folder_names_the_folder_that_it_becomes(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "model") as new:
        place = new / Path(name).relative_to("model")
        raise PermissionError(errno.EACCES, "Permission denied", str(place))
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(tmp_path / name))


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, living, young = (tmp_path / f".{name}.rosa-bench-part" for name in ("dead", "living", "young"))
    dead_folder = tmp_path / ".folder.rosa-bench-part"
    dead_folder.mkdir()
    for path in (dead, living, young):
        path.touch()
    for path in (dead, living, dead_folder):
        os.utime(path, (0, 0))
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "record.json", "text")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".living.rosa-bench-part",
            ".young.rosa-bench-part",
            "record.json",
        ]
    write_atomic(tmp_path / "record.json", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".young.rosa-bench-part", "record.json"]


def test_a_full_disk_that_a_library_hides_in_its_message_is_an_error_of_the_disk(tmp_path: Path) -> None:
    class HiddenError(Exception):
        pass

    with pytest.raises(OSError) as caught, new_folder(tmp_path / "model"):
        raise HiddenError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    with pytest.raises(HiddenError), new_folder(tmp_path / "model"):
        raise HiddenError("another reason")


def test_temporary_files_of_other_programs_are_not_ours_to_delete(tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".film.part", "film.part", ".film.0123456789ab.part", ".part", "x.tmp")]
    for path in others:
        path.write_text("theirs")
        os.utime(path, (0, 0))
    write_atomic(tmp_path / "record.json", "ours")
    assert all(path.read_text() == "theirs" for path in others)
