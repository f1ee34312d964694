"""Format numbers as text, and divide columns into blocks that fit a width."""

from collections.abc import Collection, Sequence

MISSING = "–"
MIB = 2**20  # bytes
UNDEFINED = "undefined"  # a figure over runs with a score that is not a number
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def probability(p: float) -> str:
    """Format a p-value with enough digits to differ from zero: ``0.04``, ``0.004``, ``<0.001``."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.2f}" if p >= 0.01 else f"{p:.3f}"


def parameters(count: int) -> str:
    """Format a number of parameters with three digits: ``768``, ``1.54 k``, ``627 k``, ``125 M``."""
    if count < 1000:
        return str(count)
    value, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    digits = f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")
    return f"{digits} {unit}"


def span(values: Collection[int]) -> str:
    """Format the range of values: ``3`` or ``1 to 3``."""
    return f"{min(values)} to {max(values)}" if min(values) != max(values) else str(min(values))


def thousands(count: int) -> str:
    """Format a count with thousands separators."""
    return f"{count:,}"


def superscript(number: int) -> str:
    """Format a note's number as a superscript."""
    return str(number).translate(SUPERSCRIPTS)


def blocks(widths: Sequence[float], available: float) -> list[list[int]]:
    """Split column indices, in order, into blocks whose total width fits ``available``.

    A column wider than ``available`` gets its own block.
    """
    split: list[list[int]] = []
    left = 0.0
    for index, width in enumerate(widths):
        if not split or width > left:
            split.append([])
            left = available
        split[-1].append(index)
        left -= width
    return split
