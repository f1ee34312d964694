"""Read the lines of a text file, checked and bounded, and know where a bad one is."""

from collections.abc import Iterator
from io import BufferedIOBase, TextIOWrapper

LONGEST = 1 << 24  # characters of one row: a damaged or hostile file must not fill the memory
BYTE_ORDER_MARK = "\ufeff"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # first bytes of a file that Excel saved as "Unicode text"


class Lines(Iterator[str]):
    """The lines of a UTF-8 file with their ends, without a byte order mark.

    Line ends are ``\\n``, ``\\r`` and ``\\r\\n``. Raises `ValueError` with a reason, but no place, for a line that is
    not UTF-8, contains a NUL character, or makes a row longer than `LONGEST`.

    first      number of the first line of the row being read, from 1
    in_header  whether a header is being read; set by the parser
    """

    def __init__(self, file: BufferedIOBase):
        if file.peek(2)[:2] in UTF_16:  # pyrefly: ignore[missing-attribute]
            raise ValueError("the file is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)")
        # Undecodable bytes become lone surrogates, so that the error can name their line.
        self._file = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")  # pyrefly: ignore[bad-specialization]
        self._line = self._taken = 0
        self.in_header = False
        self.first = 1

    def start_row(self) -> None:
        """Let the next row start on the next line."""
        self.first, self._taken = self._line + 1, 0

    def __next__(self) -> str:
        text = self._file.readline(LONGEST - self._taken + 1)
        if not text:
            raise StopIteration
        self._line += 1
        self._taken += len(text)
        if "\0" in text:
            raise ValueError("contains a NUL character; the file is damaged or not UTF-8")
        if self._taken > LONGEST:
            raise ValueError(f"is longer than {LONGEST:,} characters; shorten it, or look for a missing line end")
        if not (text.isascii() or is_unicode(text)):
            raise ValueError("is not UTF-8; save the file as UTF-8")
        return text.lstrip(BYTE_ORDER_MARK) if self._line == 1 else text


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded, which a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
