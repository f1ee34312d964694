"""What a damaged or unusual file of rows gives: its rows, or one line that says where it is wrong."""

import errno
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosa_bench.data.reading import lines
from rosa_bench.data.reading.readers import stream_rows
from rosa_bench.system.errors import UserError

ROWS = [{"text": f"row {number}", "label": str(number % 2)} for number in range(1, 10)]
LINES = [json.dumps(row) for row in ROWS]
SEPARATED = {
    ".csv": ["text,label", *(f"{row['text']},{row['label']}" for row in ROWS)],
    ".tsv": ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in ROWS)],
}


def contents(ending: str) -> list[str]:
    """The lines of a good file."""
    return SEPARATED.get(ending, LINES)


def write(folder: Path, ending: str, content: str | bytes) -> Path:
    path = folder / f"train{ending}"
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
    return path


def read(folder: Path, ending: str, content: str | bytes) -> list[dict[str, Any]]:
    return list(stream_rows(write(folder, ending, content)))


def error(folder: Path, ending: str, content: str | bytes) -> str:
    """The message after the file's path; it must be one line."""
    with pytest.raises(UserError) as raised:
        read(folder, ending, content)
    message = str(raised.value)
    path = str(folder / f"train{ending}")
    assert message.startswith(path)
    assert "\n" not in message
    return message.removeprefix(path)


TEXT_FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".tsv")
SEPARATE = pytest.mark.parametrize("ending", (".csv", ".tsv"))


# Encodings


@pytest.mark.parametrize("ending", TEXT_FORMATS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("marks", ["", "\ufeff", "\ufeff\ufeff"], ids=["plain", "marked", "marked twice"])
def test_a_byte_order_mark_and_any_line_end_change_nothing(tmp_path: Path, ending: str, end: str, marks: str) -> None:
    assert read(tmp_path, ending, marks + end.join(contents(ending))) == ROWS


def test_a_byte_order_mark_before_a_quoted_header(tmp_path: Path) -> None:
    assert read(tmp_path, ".csv", '\ufeff"text","label"\na,1\n') == [{"text": "a", "label": "1"}]


def test_a_mark_inside_a_text_is_kept(tmp_path: Path) -> None:
    assert read(tmp_path, ".tsv", "text\tlabel\n\ufeffa\t1\n") == [{"text": "\ufeffa", "label": "1"}]


@pytest.mark.parametrize("ending", TEXT_FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_utf_16_says_how_to_save_it(tmp_path: Path, ending: str, encoding: str) -> None:
    said = error(tmp_path, ending, "\n".join(contents(ending)).encode(encoding))
    assert said == " cannot be read: the file is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)"


@pytest.mark.parametrize("ending", TEXT_FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_refused(tmp_path: Path, ending: str, encoding: str) -> None:
    assert "NUL" in error(tmp_path, ending, "\n".join(contents(ending)).encode(encoding))


# Each damages line 7 of a file of nine rows.
DAMAGE: dict[str, Callable[[str], bytes]] = {
    "is not UTF-8": lambda line: line.replace("row", "r\udcffw").encode("utf-8", "surrogateescape"),
    "contains a NUL": lambda line: line.replace("row", "r\0w").encode(),
    "a lone surrogate's bytes": lambda line: line.replace("row", "r\ud800w").encode("utf-8", "surrogatepass"),
}


@pytest.mark.parametrize("ending", TEXT_FORMATS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_bytes_that_are_no_text_name_the_row_and_line(tmp_path: Path, ending: str, kind: str) -> None:
    good = [line.encode() for line in contents(ending)]
    good[6] = DAMAGE[kind](contents(ending)[6])
    row = 6 if ending in SEPARATED else 7
    reason = "contains a NUL" if "NUL" in kind else "is not UTF-8"
    assert error(tmp_path, ending, b"\n".join(good)).startswith(f", row {row} (line 7): {reason}")


# JSON lines


@pytest.mark.parametrize(("line", "reason"), [
    ('{"text": "a', "is not JSON: Unterminated string starting at (character 10)"),
    ('{"text" "a"}', "is not JSON: Expecting ':' delimiter (character 9)"),
    ('{"text": "a"} {}', "is not JSON: Extra data (character 15)"),
    ('["a", 1]', "is not a JSON object"),
    ('{"text": "a", "label": 1, "text": "b"}', "key 'text' occurs more than once; remove or rename one"),
    ('{"text": {"a": 1, "a": 2}}', "key 'a' occurs more than once; remove or rename one"),
    (r'{"text": "a\ud800"}', "contains half of a surrogate pair"),
    (r'{"text": ["a", "\uDFFF"]}', "contains half of a surrogate pair"),
    (r'{"\ud83d": "a"}', "contains half of a surrogate pair"),
    ('{"text": ' + "[" * 10**5 + "]" * 10**5 + "}", "is nested too deeply"),
    ('{"text": ' + '{"a":' * 10**5, "is nested too deeply"),
    ('{"label": ' + "9" * 5000 + "}", "Exceeds the limit (4300 digits) for integer string conversion"),
    ("\ufeff{}", "is not JSON: Unexpected UTF-8 BOM"),
])  # fmt: skip
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_bad_line_of_json_names_its_row(tmp_path: Path, ending: str, line: str, reason: str) -> None:
    content = "\n".join([*LINES[:3], "", "  ", *LINES[3:6], line, *LINES[6:]])
    assert error(tmp_path, ending, content).startswith(f", row 7 (line 9): {reason}")


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    assert read(tmp_path, ".jsonl", r'{"text": "\ud83d\ude00"}') == [{"text": "😀"}]


# Separated values


@SEPARATE
@pytest.mark.parametrize(("values", "count"), [(["a"], 1), (["a", "1", "2"], 3)])
def test_a_row_with_other_columns_names_its_row(tmp_path: Path, ending: str, values: list[str], count: int) -> None:
    separator = "," if ending == ".csv" else "\t"
    content = "\n".join([*contents(ending)[:4], "", separator.join(values), *contents(ending)[4:]])
    said = f", row 4 (line 6): does not have as many columns as the first line: {count}, not 2"
    assert error(tmp_path, ending, content) == said


@SEPARATE
def test_a_column_that_occurs_twice_is_refused(tmp_path: Path, ending: str) -> None:
    separator = "," if ending == ".csv" else "\t"
    content = "\n".join(separator.join(values) for values in (["text", "label", "text"], ["a", "1", "b"]))
    assert error(tmp_path, ending, content) == ", the header: column 'text' occurs more than once; remove or rename one"


@pytest.mark.parametrize(("open_at", "row", "line"), [(0, 3, 7), (1, 4, 8)])
def test_an_open_quote_names_the_row_where_it_opens(tmp_path: Path, open_at: int, row: int, line: int) -> None:
    lines = ["text,label", '"two\nlines",1', '"three\n\nlines",1', *(f"row {number},1" for number in range(40))]
    lines[3 + open_at] = f'"{lines[3 + open_at]}'
    said = error(tmp_path, ".csv", "\n".join(lines))
    assert said.startswith(f", row {row} (line {line}): a quotation mark opens a text that never ends; close it")


def test_an_open_quote_that_a_later_one_closes_names_the_row_where_it_opens(tmp_path: Path) -> None:
    lines = [*SEPARATED[".csv"]]
    lines[2], lines[5] = '"row 2,0', '"row 5",1'
    assert error(tmp_path, ".csv", "\n".join(lines)).startswith(
        ", row 2 (line 3): ',' expected after '\"'; a quotation"
    )


def test_an_open_quote_in_the_header_is_found(tmp_path: Path) -> None:
    assert error(tmp_path, ".csv", '"text,label\na,1\n').startswith(", the header: a quotation mark")


@pytest.mark.parametrize("text", ["1_0", "٣", "0x1", "1e", "", "one"])
def test_only_plain_numbers_are_numbers(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, ".tsv", f"text\tlabel\na\t{text}\n")
    assert next(stream_rows(path, numbers=["label"]))["label"] == text


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), (" 3 ", 3), ("-0.5", -0.5), ("1e3", 1000.0), ("9" * 5000, float("inf"))]
)
def test_plain_numbers_are_converted(tmp_path: Path, text: str, expected: float) -> None:
    path = write(tmp_path, ".tsv", f"text\tlabel\na\t{text}\n")
    assert next(stream_rows(path, numbers=["label"]))["label"] == expected


# Long lines


@pytest.mark.parametrize("ending", TEXT_FORMATS)
def test_a_line_of_any_length_takes_bounded_memory(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST", 100)
    row = 3 if ending in SEPARATED else 4
    content = "\n".join([*contents(ending)[:3], "x" * 10**5, *contents(ending)[3:]])
    assert error(tmp_path, ending, content).startswith(f", row {row} (line 4): is longer than 100 characters")
    assert read(tmp_path, ending, "\n".join(contents(ending) * 1)) == ROWS  # the sum of the lines has no limit


def test_a_row_of_many_lines_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 100)
    said = error(tmp_path, ".csv", "text,label\na,1\n" + '"\n","\n",' * 100)
    assert said.startswith(", row 2 (line 3): is longer than 100 characters")


class Endless(io.RawIOBase):
    """A file of zeros without an end, which counts the bytes read."""

    count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        self.count += len(buffer)
        return len(buffer)


def test_no_more_than_one_long_line_is_read() -> None:
    file = Endless()
    with pytest.raises(ValueError, match="NUL"):
        next(lines.Lines(io.BufferedReader(file)))
    assert file.count < 2 * lines.LONGEST


# Damaged archives


DAMAGED = b"".join(f"{line}\n".encode() for line in LINES * 300)
DEFLATED = gzip.compress(DAMAGED, mtime=0)  # with the time in it, processes would collect different tests


@pytest.mark.parametrize("raw", [
    DEFLATED[:-5], DEFLATED[: len(DEFLATED) // 2], DEFLATED[:12], b"\x1f\x8b\x08", b"no gzip",
    DEFLATED[:10] + b"\xff" * 20 + DEFLATED[30:], DEFLATED[:-8] + bytes(4) + DEFLATED[-4:], DEFLATED + b"more",
])  # fmt: skip
def test_a_damaged_archive_is_named(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(raw)
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} cannot be read( after row \d+)?: .*; copy or dow"):
        list(stream_rows(path))


# Parquet


def test_a_damaged_page_of_parquet_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=True, use_dictionary=False, compression="NONE")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"row 5")] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} cannot be read: .*; copy or download it again$"):
        list(stream_rows(path))


def test_parquet_columns_that_occur_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: column 'text' occurs more than once"):
        list(stream_rows(path))


def test_a_folders_name_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "label=1"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([{"text": "a"}]), folder / "train.parquet")
    assert list(stream_rows(folder / "train.parquet")) == [{"text": "a"}]


def test_a_date_outside_pythons_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": pa.array([2**62], pa.timestamp("us"))}), path)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} cannot be read: "):
        list(stream_rows(path))


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".jsonl.gz", ".parquet"])
def test_a_file_of_somebody_else_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Root may read everything, so opening is made to fail."""
    path = tmp_path / f"rows{ending}"
    refused = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied", str(path)))
    for place in ("pathlib.Path.open", "gzip.open", "pyarrow.parquet.ParquetFile"):
        monkeypatch.setattr(place, refused)
    with pytest.raises(UserError) as raised:
        list(stream_rows(path))
    assert str(raised.value) == f"{path} cannot be read: Permission denied; its owner can let you, as by chmod g+r"
