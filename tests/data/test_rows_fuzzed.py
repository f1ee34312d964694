"""Mutated files of rows give either the rows that an independent reading finds in them, or one line naming the file."""

import gzip
import io
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosa_bench.data.reading.readers import stream_rows
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.rows import load_rows
from rosa_bench.tasks.classification.task import TextTask

TOY = TextTask(
    name="toy", title="Toy", text=["text"], labels=["no", "yes"], metric="accuracy", score="accuracy", folder="toy"
)
Rows = list[dict[str, Any]]
TEXTS = [
    "plain",
    "",
    "a, b",
    'a "quoted" one',
    "é 漢字 😀",
    "two\nlines",
    "NA",
    "007",
    "\u2028\x85",
    "\ufeff",
    "[1]",
    "end ",
]
COLUMNS = ("text", "label", "extra")
ROWS: Rows = [{"text": text, "label": number % 2, "extra": f"x{number}"} for number, text in enumerate(TEXTS * 2)]
# What mutations insert: everything that means something to a format, and what other programs leave in files.
TOKENS = [
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b",", b'"', b'""', b"\\", b"{", b"}", b"[", b"]", b":", b"\x1a", b" "),
    *(b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xf0\x9f", b"\xc0\x80", b"\xe9"),
    *(b"\\ud800", b"\\u0000", b'"text": 1, ', b"NaN", b"-1", b"null", b"true", b"1e999", b"9" * 30, b"[" * 2000),
    *(b"label", b"text\tlabel\textra\n", b"text,label,extra\n", b"\x1f\x8b\x08", b"PAR1"),
]  # fmt: skip


def table(separator: str, quote: Callable[[str], str]) -> bytes:
    lines = [COLUMNS, *([str(row[name]) for name in COLUMNS] for row in ROWS)]
    return "".join(separator.join(map(quote, line)) + "\n" for line in lines).encode()


def jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" for number, row in enumerate(ROWS)).encode()


def parquet(**options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer, row_group_size=10, write_page_checksum=True, **options)
    return buffer.getvalue()


WHOLE: dict[str, list[bytes]] = {
    ".jsonl": [jsonl()],
    ".jsonl.gz": [gzip.compress(jsonl(), mtime=0)],
    ".tsv": [table("\t", lambda text: text.replace("\n", " "))],
    ".csv": [table(",", lambda text: '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text)],
    ".parquet": [parquet(), parquet(compression="none", use_dictionary=False), parquet(data_page_version="2.0")],
}


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """A file with one to three mutations."""
    content = bytearray(raw)
    for _ in range(draw.choice([1, 1, 2, 3])):
        at = draw.randrange(len(content) + 1)
        size = draw.choice([1, 1, 2, 5, 40, 400])
        match draw.choice(
            ["flip", "flip", "byte", "delete", "insert", "insert", "insert", "repeat", "cut", "move", "front"]
        ):
            case "flip" if at < len(content):
                content[at] ^= 1 << draw.randrange(8)
            case "byte" if at < len(content):
                content[at] = draw.randrange(256)
            case "delete":
                del content[at : at + size]
            case "insert":
                content[at:at] = draw.choice(TOKENS)
            case "repeat":
                content[at:at] = content[at : at + size]
            case "cut":
                del content[at:]
            case "move":
                part = content[at : at + size]
                del content[at : at + size]
                where = draw.randrange(len(content) + 1)
                content[where:where] = part
            case "front":
                content[:0] = draw.choice(TOKENS)
    return bytes(content)


# Independent readings. Each raises `ValueError` for a file that must be refused.


def decoded(raw: bytes) -> str:
    text = raw.decode("utf-8")
    if "\0" in text:
        raise ValueError("NUL")
    return text.lstrip("\ufeff")


def expect_jsonl(raw: bytes) -> Rows:
    """By msgspec, which does not share code with the standard library."""
    rows = []
    for line in re.split("\r\n|\r|\n", decoded(raw)):
        if not line.strip():
            continue
        row = msgspec.json.decode(line)
        pairs = json.loads(line, object_pairs_hook=lambda pairs: ("object", pairs))
        if not isinstance(row, dict) or has_duplicates(pairs):
            raise ValueError("not an object, or a key twice")
        rows.append(row)
    return rows


def has_duplicates(value: Any) -> bool:
    match value:
        case ("object", pairs):
            return len({key for key, _ in pairs}) < len(pairs) or any(has_duplicates(inner) for _, inner in pairs)
        case list():
            return any(map(has_duplicates, value))
    return False


def expect_tsv(raw: bytes) -> Rows:
    """Split lines and tabs, nothing else."""
    return by_header([line.split("\t") for line in re.split("\r\n|\r|\n", decoded(raw)) if line])


def expect_csv(raw: bytes) -> Rows:
    """One character at a time, by RFC 4180. A mark inside a field that does not begin with one is a character."""
    records: list[list[str]] = []
    fields: list[str] = []
    field, state = "", "start"
    for letter in [*re.findall("\r\n|.", decoded(raw), re.DOTALL), "end"]:
        if state == "quoted" and letter == "end":
            raise ValueError("never closed")
        if state == "quoted":
            field, state = (field, "closing") if letter == '"' else (field + letter, state)
        elif state == "closing" and letter == '"':
            field, state = field + '"', "quoted"
        elif letter == '"' and state == "start":
            state = "quoted"
        elif letter == ",":
            fields, field, state = [*fields, field], "", "start"
        elif letter in ("\r\n", "\r", "\n", "end"):
            if fields or field or state != "start":
                records.append([*fields, field])
            fields, field, state = [], "", "start"
        elif state == "closing":
            raise ValueError("a letter after a closing mark")
        else:
            field, state = field + letter, "plain"
    return by_header(records)


def by_header(records: list[list[str]]) -> Rows:
    header = records[0] if records else []
    if len(set(header)) < len(header) or any(len(record) != len(header) for record in records):
        raise ValueError("a column twice, or uneven rows")
    return [dict(zip(header, record, strict=True)) for record in records[1:]]


def expect_gzip(raw: bytes) -> Rows:
    return expect_jsonl(gzip.decompress(raw))


EXPECT = {".jsonl": expect_jsonl, ".jsonl.gz": expect_gzip, ".tsv": expect_tsv, ".csv": expect_csv}
REFUSALS = (ValueError, EOFError, OSError, zlib.error, RecursionError)


def check(path: Path, raw: bytes, ending: str) -> str:
    """Check the law for one file. Returns what became of it."""
    path.write_bytes(raw)
    try:
        found = list(stream_rows(path))
    except UserError as error:
        assert str(error).startswith(str(path)), raw
        assert len(str(error).splitlines()) == 1, raw
        assert len(str(error)) < len(str(path)) + 300, raw
        found = None
    try:
        rows = load_rows(TOY, "train", path.parent.parent)
        assert found is not None and len(rows) == len(found)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1, raw
    if ending == ".parquet":
        # The pages have checksums; the rest of the file, such as the names of columns, has none.
        return "refused" if found is None else "read"
    try:
        expected = EXPECT[ending](raw)
    except REFUSALS:
        expected = None
    # Only the standard library reads these, and both are refused as labels or texts.
    if (
        expected is None
        and found is not None
        and re.search(r"NaN|Infinity|1e999|\d{19}", str(found) + raw.decode("latin-1"))
    ):
        return "read"
    assert found == expected, raw
    return "refused" if found is None else "read"


def cases(ending: str, count: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(f"{ending} {seed}")
    for number in range(count):
        if ending == ".jsonl.gz" and number % 2:  # damage before compression
            yield gzip.compress(mutated(WHOLE[".jsonl"][0], draw))
        else:
            yield mutated(WHOLE[ending][number % len(WHOLE[ending])], draw)


def fuzz(folder: Path, ending: str, count: int, seed: int) -> None:
    (folder / "toy").mkdir()
    outcomes = {check(folder / "toy" / f"train{ending}", raw, ending) for raw in cases(ending, count, seed)}
    assert outcomes == {"read", "refused"}  # the mutations are neither all harmless nor all fatal


@pytest.mark.parametrize("ending", WHOLE)
def test_a_whole_file_is_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "toy").mkdir()
    for raw in WHOLE[ending]:
        assert check(tmp_path / "toy" / f"train{ending}", raw, ending) == "read"


@pytest.mark.parametrize("ending", WHOLE)
def test_mutated_files_are_read_right_or_refused(tmp_path: Path, ending: str) -> None:
    fuzz(tmp_path, ending, count=200, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("ending", WHOLE)
def test_many_mutated_files_are_read_right_or_refused(tmp_path: Path, ending: str, seed: int) -> None:
    fuzz(tmp_path, ending, count=2000, seed=seed)


@pytest.mark.parametrize("number", range(len(WHOLE[".parquet"])))
def test_a_bit_flipped_in_a_page_of_parquet_never_changes_a_row(tmp_path: Path, number: int) -> None:
    """Pages come before the footer, whose size is in the file's last bytes."""
    raw = WHOLE[".parquet"][number]
    end = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    draw = random.Random(number)
    path = tmp_path / "train.parquet"
    for _ in range(200):
        content = bytearray(raw)
        content[draw.randrange(4, end)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            assert list(stream_rows(path)) == ROWS
        except UserError as error:
            assert str(error).startswith(str(path))
