"""Log lines on the terminal. Imports no torch, because every command logs."""

import logging

from rich import get_console

from rosa_bench.system.printable import printable


class ConsoleHandler(logging.Handler):
    """Writes log lines through rich's console, above a live bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.format(record), keep="\n\t")
        get_console().print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
