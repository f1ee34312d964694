"""The look of each method in figures, read from its yaml."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from rosa_bench.config.files.folder import files_in
from rosa_bench.config.files.reading import read_settings


@dataclass(frozen=True, kw_only=True)
class Look:
    """Place in legends, colour, marker and line style, as matplotlib names them."""

    order: int = 1000  # after all methods that set their order
    colour: str = "#999999"
    marker: str = "."
    line: Any = "-"


UNKNOWN = Look()


@cache
def looks() -> dict[str, Look]:
    """Return the look of every method, by name, in the order of legends."""
    found = {}
    for name, path in files_in("method").items():
        look = read_settings(path).get("look", {})
        if isinstance(look.get("line"), list):  # matplotlib's form: an offset, then lengths of dashes and gaps
            look["line"] = (look["line"][0], tuple(look["line"][1]))
        found[name] = Look(**look)
    return dict(sorted(found.items(), key=lambda pair: pair[1].order))


def order_of(method: str) -> int:
    """Return the place of a method in legends; after all others if it has no yaml."""
    known = list(looks())
    return known.index(method) if method in known else len(known)


def look_of(method: str) -> Look:
    """Return the look of a method; grey with small dots if it has no yaml."""
    return looks().get(method, UNKNOWN)
