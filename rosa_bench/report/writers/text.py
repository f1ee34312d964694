"""Figures and counts in words."""

from collections.abc import Collection, Sequence

MISSING = "–"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(fraction: float) -> str:
    """A fraction times 100, with one decimal; never ``-0.0``."""
    return f"{100 * fraction:z.1f}"


def signed(fraction: float) -> str:
    """As `percent`, its sign always shown."""
    return f"{100 * fraction:+z.1f}"


def probability(p: float) -> str:
    """``0.04``, ``0.004``, ``<0.001``: as many digits as tell it from zero."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.2f}" if p >= 0.01 else f"{p:.3f}"


def parameters(count: int) -> str:
    """A number of parameters with three digits: ``768``, ``1.54 k``, ``627 k``, ``125 M``."""
    if count < 1000:
        return str(count)
    value, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    digits = f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")
    return f"{digits} {unit}"


def span(values: Collection[int]) -> str:
    """``3``, or ``1 to 3``."""
    return f"{min(values)} to {max(values)}" if min(values) != max(values) else str(min(values))


def rows(count: int) -> str:
    """A count with its thousands marked."""
    return f"{count:,}"


def raised(number: int) -> str:
    """A note's number, as a superscript."""
    return str(number).translate(SUPERSCRIPTS)


def blocks(widths: Sequence[float], room: float) -> list[list[int]]:
    """Positions of columns, in order, cut so that each block's widths fit ``room``; one alone may exceed it."""
    cut: list[list[int]] = []
    left = 0.0
    for position, width in enumerate(widths):
        if not cut or width > left:
            cut.append([])
            left = room
        cut[-1].append(position)
        left -= width
    return cut
