"""Report errors to a person, with the exit status that goes with each."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rosa_bench.system import processes
from rosa_bench.system.console import lost_output
from rosa_bench.system.errors import PreemptedError, UserError
from rosa_bench.system.text.printable import printable


@contextmanager
def errors_reported() -> Iterator[None]:
    """Print errors from the block as one line and exit: status 1, or 130 after Ctrl-C, or 143 after SIGTERM."""
    try:
        yield
    except KeyboardInterrupt as error:
        if processes.is_first():
            report(str(error) or "stopped")
        sys.exit(143 if isinstance(error, PreemptedError) else 130)
    except Exception as error:
        if tracebacks_wanted():
            raise
        report(explain(error))
        sys.exit(1)


def output_arrived() -> None:
    """End with status 1 if something that the command printed was lost, and say so unless its reader has left."""
    sys.stdout.flush()
    error = lost_output()
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    if error is not None:
        raise UserError(f"the output could not be written: {error.strerror or error}")


def report(message: str) -> None:
    """Write a message for the user to stderr. Of processes that share a run, one writes it."""
    if (said := processes.reported(message)) is not None:
        print(f"rosa-bench: {printable(said)}", file=sys.stderr)


def report_at_once(doing: str, arguments: Sequence[str]) -> None:
    """Tell somebody at a terminal what the program is doing, before it imports libraries, which takes seconds."""
    if sys.stderr.isatty():
        report(" ".join([doing, *arguments]))


def tracebacks_wanted() -> bool:
    """Return whether errors are shown with their tracebacks."""
    return os.environ.get("ROSA_BENCH_TRACEBACK") == "1"


def explain(error: BaseException) -> str:
    """Return one line about an error: for a user's mistake what to do, for anything else its kind and message."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and not _has_current_folder():
        return "the current folder was deleted; change to another one"
    if type(error).__module__.partition(".")[0] in ("hydra", "omegaconf"):
        from rosa_bench.config.overrides.mistakes import explain_composition

        return explain_composition(error)  # pyrefly: ignore[bad-argument-type]
    if said := _explain_by_name(error):
        return said
    return f"{type(error).__name__}: {error} (ROSA_BENCH_TRACEBACK=1 shows where)"


def _explain_by_name(error: BaseException) -> str | None:
    """Explain an error whose class cannot be imported here, because that would import torch or an optional package."""
    if type(error).__name__ == "TrainingFailedError":
        return f"the training cannot go on: {error}; a smaller lr= may help"
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, about a process of a sweep
        how = re.search(r"exit codes of the workers are \{(.+?)\}", str(error))
        return (
            f"a process of the sweep was killed{f' ({how[1]})' if how else ''}, as happens if memory runs out; "
            "the same command continues, and a smaller hydra.launcher.n_jobs= needs less memory"
        )
    return None


def _has_current_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
