import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.runs.lock import BusyError, holder, locked
from rosa_bench.system.errors import UserError

HOLD = """
import sys
from pathlib import Path
from rosa_bench.runs.lock import locked
with locked(Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen]:
    """Start a process that holds the lock until its input ends."""
    piped = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=piped, stdout=piped, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_held_lock_names_its_holder_and_can_be_taken_over_once_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run"
    with another_process(path) as process:
        for _ in range(2):
            with pytest.raises(BusyError) as caught, locked(path, "the run"):
                pytest.fail("two hold it")
            message = str(caught.value)
            assert message.startswith(f"the run is being run by process {process.pid} on this machine; ")
            assert str(path) in message
            assert "\n" not in message
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        with locked(path, "the run"):
            assert holder(path) == f"process {os.getpid()} on this machine"
            with pytest.raises(BusyError, match=f"process {os.getpid()} on this machine"), locked(path, "the run"):
                pytest.fail("two hold it")
    assert not path.exists()


def test_a_process_releases_its_lock_when_it_ends(tmp_path: Path) -> None:
    with another_process(tmp_path / "run") as process:
        process.communicate()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_released_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    for _ in range(2):
        with pytest.raises(error), locked(tmp_path / "run", "the run"):
            raise error
        assert not list(tmp_path.iterdir())


def test_a_busy_error_is_a_user_error() -> None:
    assert issubclass(BusyError, UserError)


def test_a_lock_of_another_machine_is_not_taken_over(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "the run"):
        pid, host, *rest = (tmp_path / "run").read_text().splitlines()
    assert (int(pid), host.partition("?")[0]) == (os.getpid(), socket.gethostname())
    written = "\n".join(["4000000", "elsewhere", *rest]) + "\n"  # no process here has that number
    (tmp_path / "run").write_text(written)
    expected = r"by process 4000000 on elsewhere; if that process is gone, remove "
    with pytest.raises(BusyError, match=expected), locked(tmp_path / "run", "the run"):
        pytest.fail("taken over")
    assert (tmp_path / "run").read_text() == written
    (tmp_path / "run").write_text(written.replace("elsewhere", host))  # as if it were a lock of this machine
    with locked(tmp_path / "run", "the run"):
        pass


@pytest.mark.parametrize(("text", "expected"), [
    ("", "another process"), ("12\n", "another process"),
    (f"12\n{socket.gethostname()}\n", "process 12 on this machine"),
    (f"12\n{socket.gethostname()}?pidns-4026532\n7\n", "process 12 on this machine"),  # in a container
    ("12\nfar\n7\n", "process 12 on far"),
])  # fmt: skip
def test_the_holder_is_described_in_words(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "run").write_text(text)
    assert holder(tmp_path / "run") == expected


def test_a_missing_lock_has_an_unknown_holder(tmp_path: Path) -> None:
    assert holder(tmp_path / "run") == "another process"


@pytest.mark.parametrize("content", ["", "12", f"12\n{socket.gethostname()}\n", "\0\0\0\0"])
def test_what_a_killed_process_left_is_taken_over_whatever_it_wrote(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").write_text(content)
    with locked(tmp_path / "run", "the run"):
        assert holder(tmp_path / "run") == f"process {os.getpid()} on this machine"
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_user_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so opening a file for writing is made to fail."""
    path, real = tmp_path / "run", os.open

    def refused(file: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR and (path.exists() or not flags & os.O_CREAT):
            raise FileExistsError(file) if flags & os.O_CREAT else PermissionError(errno.EACCES, "denied", str(file))
        return real(file, flags, *mode)

    path.write_text(f"12\n{socket.gethostname()}\n")
    monkeypatch.setattr(os, "open", refused)
    words = f"the run is being run by process 12 on this machine; if that process is gone, remove {path}"
    with pytest.raises(BusyError, match=re.escape(words)), locked(path, "the run"):
        pytest.fail("held")
    assert path.exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_something_else_in_the_place_of_a_lock_is_named_and_does_not_hang(tmp_path: Path, make: Callable) -> None:
    make(tmp_path / "run")
    reason = "run is in the place of a lock and is not a regular file; remove it"
    with pytest.raises(UserError, match=reason), locked(tmp_path / "run", "the run"):
        pytest.fail("held")
    assert holder(tmp_path / "run") == "another process"


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_share_without_flock_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("rosa_bench.runs.lock.fcntl.flock", refused)
    path = tmp_path / "run"
    for _ in range(2):
        with locked(path, "the run"):
            assert holder(path) == f"process {os.getpid()} on this machine"
            with pytest.raises(BusyError, match=f"process {os.getpid()}"), locked(path, "the run"):
                pytest.fail("two hold it")
        assert not path.exists()
    path.touch()
    os.utime(path, (0, 0))  # by a process that was killed before it wrote into it
    with locked(path, "the run"):
        pass


def test_a_lock_removed_by_its_holder_while_we_open_it_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "run", fcntl.flock
    path.touch()

    def flock(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, "the run"), pytest.raises(BusyError), locked(path, "the run"):
        pytest.fail("two hold it")
