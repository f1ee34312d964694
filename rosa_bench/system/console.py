"""Log lines on the terminal. Imports no torch, because every command logs."""

import logging

from rich import get_console


class ConsoleHandler(logging.Handler):
    """Writes log lines through rich's console, above a live bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        get_console().print(self.format(record), markup=False, emoji=False, highlight=False, soft_wrap=True)
