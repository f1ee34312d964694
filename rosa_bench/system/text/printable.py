"""Text that somebody else wrote, made safe to show."""

import unicodedata

LONGEST = 500  # characters of a message in the words of a library, which may quote a value


def printable(text: str, *, keep: str = "") -> str:
    r"""Write characters that cannot be seen as escapes: ``\n``, ``\x1b``, ``\u202e``. Those in ``keep`` stay.

    These are control characters, with which a text could move the cursor or end a line, and format characters, with
    which it could reorder what is beside it.

    >>> printable("a\nb \x1b[31mred \u202eleft é 漢")
    'a\\nb \\x1b[31mred \\u202eleft é 漢'
    """
    if text.isprintable():
        return text
    return "".join(one if _is_visible(one) or one in keep else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str) -> str:
    """Return a text that may be very long without its middle."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def cut(text: str, longest: int) -> str:
    """Return at most ``longest`` characters of a text; the last three of a longer one are dots.

    >>> cut("entailment", 10), cut("not_entailment", 10)
    ('entailment', 'not_ent...')
    """
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _is_visible(one: str) -> bool:
    return one.isprintable() or unicodedata.category(one) == "Zs"  # a space of any width
