"""The style of every line: a method's colour and marker, shades for its ranks and variants, dashes for variants."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from matplotlib.colors import to_rgb

from rosa_bench.config.files.looks import look_of
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.figures.drawing import faded

Styles = dict[Variant, dict[str, Any]]

PALEST = 0.45  # of the lowest of many ranks
DARKEST, LIGHTEST = 0.45, 0.55  # how much black the first changed form has, and how much white the last
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


def styles_of(variants: Iterable[Variant]) -> Styles:
    """Style the lines of one figure.

    All variants of a method have its marker and a shade of its colour. A lower rank is paler. A method without changed
    settings, or with a single form, has the colour itself and its own dashes. Changed forms go from dark to pale, with
    dashes of their own.
    """
    known = list(dict.fromkeys(variants))
    ranks = sorted({variant.rank for variant in known if variant.rank is not None})
    return {variant: _style(variant, ranks, _tones(known, variant.method)) for variant in known}


def _style(variant: Variant, ranks: list[int], tones: Mapping[object, tuple[float, Any]]) -> dict[str, Any]:
    own = look_of(variant.method)
    tone, dashes = tones.get(variant.changes, (0.0, own.line))
    return {
        "color": faded(toned(own.colour, tone), _strength(variant.rank, ranks)),
        "linestyle": dashes,
        "marker": own.marker,
        "markersize": 3.5,
        "linewidth": 1.2,
    }


def _strength(rank: int | None, ranks: list[int]) -> float:
    """Return how much of the colour a rank keeps: all of it for the highest in the figure."""
    if rank is None:
        return 1.0
    return 1 - (1 - PALEST) * (len(ranks) - 1 - ranks.index(rank)) / len(ranks)


def _tones(variants: Iterable[Variant], method: str) -> dict[object, tuple[float, Any]]:
    """Return the tone and the dashes of each changed form of a method."""
    ours = sorted((one for one in variants if one.method == method), key=lambda one: replace(one, rank=None).label)
    forms = list(dict.fromkeys(one.changes for one in ours))
    if len(forms) == 1:
        return {}
    forms = [form for form in forms if form]
    step = (DARKEST + LIGHTEST) / max(1, len(forms))
    return {form: (step * number - DARKEST, DASHES[number % len(DASHES)]) for number, form in enumerate(forms)}


def toned(colour: Any, tone: float) -> tuple[float, float, float]:
    """Mix a colour with black (``tone`` from -1 to 0) or with white (from 0 to 1).

    >>> toned("#ff8000", -1), toned("#ff8000", 1)
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """
    if tone >= 0:
        return faded(colour, 1 - tone)
    red, green, blue = ((1 + tone) * part for part in to_rgb(colour))
    return red, green, blue
