"""Import matplotlib whatever the user's environment says about showing pictures. We only write files."""

import os
import sys

from rosa_bench.system.errors import UserError


def import_matplotlib() -> None:
    """Import matplotlib, without ``MPLBACKEND`` if it names a back end that is not installed here.

    Notebooks set the variable for every program that is started from them. Raises `UserError` if a ``matplotlibrc``
    cannot be read. What a readable one says does not matter (`rosa_bench.report.figures.drawing.styled`).
    """
    try:
        _import()
    except UserError:
        raise
    except ValueError:
        wanted = os.environ.pop("MPLBACKEND", None)
        try:
            _import()
        finally:
            if wanted is not None:
                os.environ["MPLBACKEND"] = wanted


def _import() -> None:
    try:
        import matplotlib  # noqa: F401
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"matplotlib cannot read a file named matplotlibrc ({error}); rename or mend it") from error
    except ValueError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        raise
