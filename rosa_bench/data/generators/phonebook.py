"""A phone book without a download: names and numbers that only a memory can connect.

Names are drawn from the syllables below and are distinct. Digits are drawn uniformly and independently, so a number is
worth exactly log2(10) bits per digit, and nothing but memorising it predicts it. Names are built so that they look like
names; none is meant to be anyone's.
"""

from random import Random

from rosa_bench.system.errors import UserError

# A given name is a start and an end, a surname a start, a middle and an end: over 17 million combinations.
GIVEN_STARTS = (
    "Al", "Am", "An", "Ar", "Be", "Bran", "Cal", "Cor", "Da", "Del", "El", "Em", "Fi", "Flo", "Ga", "Hel",
    "Is", "Ja", "Jo", "Ka", "Kel", "La", "Le", "Lu", "Mar", "Mel", "Mi", "Na", "Ni", "Or", "Pe", "Ra",
    "Ro", "Sa", "Sel", "Ta", "Ter", "Va", "Vi", "Wil",
)  # fmt: skip
GIVEN_ENDS = (
    "a", "an", "da", "den", "dra", "el", "en", "ia", "ie", "ine", "is", "la", "lan", "lia", "lo", "na",
    "nor", "ra", "ric", "rin", "ro", "sa", "ta", "vin",
)  # fmt: skip
SURNAME_STARTS = (
    "Ash", "Bar", "Beck", "Black", "Bren", "Brook", "Car", "Cole", "Dal", "Den", "Dun", "East", "Fair", "Fen",
    "Gar", "Glen", "Gran", "Hal", "Har", "Hart", "Haw", "Hol", "Kings", "Lang", "Lock", "Mar", "Mer", "Mor",
    "Nor", "Oak", "Pem", "Ren", "Rock", "Sand", "Shel", "Stan", "Thorn", "Wal", "West", "Win",
)  # fmt: skip
SURNAME_MIDDLES = (
    "", "a", "be", "den", "di", "el", "en", "er", "ham", "i", "ing", "ke", "le", "lin", "mer", "o", "ra", "ring",
    "te", "wa",
)  # fmt: skip
SURNAME_ENDS = (
    "bridge", "brook", "burn", "by", "dale", "don", "field", "ford", "gate", "ham", "land", "ley", "man", "mond",
    "more", "sey", "shaw", "son", "stead", "ston", "ton", "well", "worth",
)  # fmt: skip
NAME_PARTS = (GIVEN_STARTS, GIVEN_ENDS, SURNAME_STARTS, SURNAME_MIDDLES, SURNAME_ENDS)
MOST_PAIRS = 1_000_000  # few enough that distinct names are found quickly


def load(split: str, *, pairs: int, digits: int, seed: int) -> list[dict[str, str]]:
    """Return ``pairs`` rows with a distinct ``name`` and a ``number`` of ``digits`` random digits.

    The rows depend on nothing but the arguments, and are the same in every process and Python version. The first rows
    of a larger book are those of a smaller one. Raises `UserError` for a split other than ``train``.
    """
    if split != "train":
        raise UserError(f"the phonebook task has no split {split!r}; it has train")
    # A string seed is hashed by SHA-512, not hash(): equal in all processes.
    names, numbers = Random(f"phonebook names {seed}"), Random(f"phonebook numbers {seed}")
    return [
        {"name": name, "number": "".join(str(_below(10, numbers)) for _ in range(digits))}
        for name in _distinct_names(pairs, names)
    ]


def _distinct_names(count: int, rng: Random) -> list[str]:
    """Draw names until ``count`` of them are distinct, in the order of their first draw."""
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < count:
        start, end, *surname = (parts[_below(len(parts), rng)] for parts in NAME_PARTS)
        found[f"{start}{end} {''.join(surname)}"] = None
    return list(found)


def _below(count: int, rng: Random) -> int:
    return int(rng.random() * count)  # Python guarantees the same numbers in every version only for `Random.random`
