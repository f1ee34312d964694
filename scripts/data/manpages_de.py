"""Make the data of task=manpages_de from Debian's package manpages-de: German manual pages as plain text.

    sudo apt-get install manpages-de
    python -m scripts.data.manpages_de DATA_DIR [PAGES]

Writes DATA_DIR/manpages_de/train.jsonl.gz and validation.jsonl.gz. PAGES is the folder of the pages, by default
/usr/share/man/de; it can be that of an unpacked package (dpkg-deb -x). Version 4.18.1-1, of Debian 12, gives the pages
that the task's yaml declares, byte for byte: 863 and 45. Another version gives custom rows, which tables keep apart.

A page is its roff source without commands, so nothing depends on a formatter. Each page has its own licence, mostly
GPL.
"""

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic
from scripts.arguments import existing_folder, new_folder, start

INSTALLED = Path("/usr/share/man/de")
OF_PACKAGE = Path("/var/lib/dpkg/info/manpages-de.list")  # other packages have German pages too
VALIDATION = 20  # one page in so many

# Commands whose arguments are text, and those that leave a blank line; others leave nothing. Commands that are indented
# after their dot belong to macro definitions and leave nothing.
TEXT = ("TH", "SH", "SS", "UR", "MT", "B", "I", "BI", "BR", "IB", "IR", "RB", "RI", "SM", "SB")
BLANK = (
    "PP", "P", "TP", "IP", "RS", "RE", "EX", "EE", "UE", "ME", "sp", "br", "nf", "fi", "in", "ad", "na", "hy", "de",
    "if", "ie", "el",
)  # fmt: skip


def main(data_dir: Path, man: Path = INSTALLED) -> None:
    """Write both files, and print how many pages each has."""
    folder = data_dir / "manpages_de"
    texts = pages(man)
    if not texts:
        raise UserError("no German manual pages there; install them with: sudo apt-get install manpages-de")
    found = {folder / f"{name}.jsonl.gz": some for name, some in splits(texts).items()}
    if there := [path for path in found if path.exists()]:
        raise UserError(f"{there[0]} exists; remove it first")
    for path, some in found.items():
        write_atomic(path, compressed(some))
        print(f"{path}: {len(some)} pages, {sum(map(len, some)):,} characters")


def pages(folder: Path) -> set[str]:
    """Return the different texts of all pages in a folder. In `INSTALLED`, only those of the package count."""
    paths = sorted(folder.rglob("*.gz"))
    if folder == INSTALLED and OF_PACKAGE.exists():
        own = set(OF_PACKAGE.read_text(encoding="utf-8").splitlines())
        paths = [path for path in paths if str(path) in own]
    return {plain(gzip.decompress(path.read_bytes()).decode()) for path in paths if path.is_file()}


def splits(texts: Iterable[str]) -> dict[str, list[str]]:
    """Order pages by the SHA-256 of their text, and make the first twentieth the validation split."""
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    count = len(ordered) // VALIDATION
    return {"train": ordered[count:], "validation": ordered[:count]}


def compressed(texts: list[str]) -> bytes:
    """Return gzipped JSON lines, the same bytes every time."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as file:  # unlike `compress`, names no system
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    return buffer.getvalue()


def plain(roff: str) -> str:
    """Return the text of a page: its source without comments, commands and escapes."""
    text = "\n".join(line for line in _lines(roff) if not line.startswith("."))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _lines(roff: str) -> Iterator[str]:
    for line in roff.split("\n"):
        if re.match(r"[.']\s*\\\"", line):
            continue
        if not line.startswith("."):
            yield _without_escapes(line)
            continue
        command, arguments = re.fullmatch(r"\.([A-Za-z]*)\s?(.*)", line).groups()  # pyrefly: ignore[missing-attribute] - it fits every line
        if command in TEXT:
            yield _without_escapes(arguments)
        elif command in BLANK:
            yield ""


def _without_escapes(text: str) -> str:
    """Remove fonts, special characters and break points; keep bullets and hyphens."""
    text = re.sub(r"\\f.", "", text.replace(r"\(bu", "*")).replace(r"\-", "-")
    return re.sub(r"\\\(..|\\[&%:]", "", text)


if __name__ == "__main__":
    start(main, __doc__, new_folder, existing_folder)
