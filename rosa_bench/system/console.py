"""Output to the terminal that can fail without failing the program. Imports no torch, because every command logs.

A reader may close its end of a pipe, as head does. A terminal may be closed. The disk under a log may be full. None of
these may end a run, whichever library prints the line, so the program's standard streams are wrapped, once.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich import get_console

from rosa_bench.system.text.printable import printable


class ConsoleHandler(logging.Handler):
    """Writes log lines through rich's console, above a live bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.format(record), keep="\n\t")
        get_console().print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Unfailing:
    """A text stream whose writes never raise. ``lost`` is the first error; after it, everything goes to /dev/null."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        with self._errors_kept():
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:  # the terminal's encoding lacks a letter
                self.stream.write(text.encode(error.encoding, errors="backslashreplace").decode(error.encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._errors_kept():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _errors_kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - it has no path
                os.dup2(nowhere.fileno(), self.stream.fileno())  # or Python would fail when it flushes at exit
        except ValueError as error:  # closed by somebody in this process
            self.lost = self.lost or OSError(None, str(error))


@contextmanager
def output_never_fails() -> Iterator[None]:
    """Wrap the standard streams inside the block, and open those that the program was started without."""
    for number in range(3):  # or the next file that is opened would get the number, and what others print
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    out, err = (Unfailing(stream if stream is not None else io.StringIO()) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def lost_output() -> OSError | None:
    """Return why the output was lost, or None if nothing was."""
    return getattr(sys.stdout, "lost", None)
