"""Vocabulary of the restaurants task: possible facts about a restaurant and the phrases for each.

A new phrase must follow these rules:

* it states its own attribute once and no other; a name states nothing else;
* the first letter decides the article (no "hour", no "unique"); write "a" here, "an" is substituted later;
* the predicates of each fact start with at least two different words, so that two facts in one sentence need not share
  a verb.
"""

from itertools import product
from typing import NamedTuple


class Forms(NamedTuple):
    """Phrases for one fact, by their position in a sentence."""

    before: tuple[str, ...]  # adjectives before the noun; the only field that may be empty
    after: tuple[str, ...]  # phrases after the noun
    does: tuple[str, ...]  # predicates of the restaurant
    clause: tuple[str, ...]  # clauses with their own subject and no pronoun: "it" could be a meal


def _say(words: tuple[str, ...], *, before: str = "", after: str, does: str, clause: str) -> Forms:
    """Expand phrases separated by bars: each star is replaced by each of ``words``."""
    forms = (
        tuple(phrase.replace("*", word) for phrase in phrases.split(" | ") for word in words) if phrases else ()
        for phrases in (before, after, does, clause)
    )
    return Forms(*forms)


def _food(kind: str) -> Forms:
    return _say(
        (kind,),
        before="*",
        after="serving * food | offering * dishes | with a * menu",
        does="serves * food | offers * dishes | has a * menu | specialises in * cooking",
        clause="the food is * | the menu is * | the kitchen is *",
    )


def _amount(*words: str) -> Forms:
    return _say(
        words,
        after="charging * | where a meal costs *",
        does="charges * | offers meals for *",
        clause="a meal costs * | meals cost * | you will pay * for a meal",
    )


def _level(prices: str, adjective: str) -> Forms:
    return _say(
        (prices,),
        before=adjective,
        after="with * prices",
        does=f"has * prices | charges * prices | is {adjective}",
        clause="the prices are * | prices are *",
    )


def _score(*words: str) -> Forms:
    return _say(
        words,
        after="with a customer rating of * | rated * by customers",
        does="has a customer rating of * | is rated * by customers",
        clause="the customer rating is * | customers rate the place * | customers give the place *",
    )


def _opinion(word: str, adjective: str = "") -> Forms:
    return _say(
        (word,),
        before=adjective,
        after="with a * customer rating | with * customer reviews",
        does="has a * customer rating | gets * reviews from customers",
        clause="the customer rating is * | customer reviews are * | customers call the place *",
    )


NAMES = (
    "The Copper Kettle",
    "The Blue Fig",
    "The Idle Spoon",
    "The Quiet Oak",
    "The Tin Whistle",
    "The Winter Garden",
    "Bell & Thistle",
    "Fernhill",
    "Juniper",
    "Larkspur",
    "Marigold",
    "Marlow's",
    "Northgate",
    "Pépin",
    "Saffron Lane",
    "Zoé's Table",
)
LANDMARKS = (
    "Café Zéphyr",
    "Café Lumen",
    "The Lantern",
    "The Weathercock",
    "The Corn Exchange",
    "Bramble House",
    "Hotel Aurora",
    "Tolland Hall",
)
EAT_TYPES = ("bistro", "tavern", "tea room", "inn")
FOODS = (
    "Greek",
    "Thai",
    "Mexican",
    "Lebanese",
    "Ethiopian",
    "Korean",
    "Moroccan",
    "Portuguese",
    "vegetarian",
    "organic",
)
AREAS = {
    "harbour": ("by the harbour", "at the harbour"),
    "old town": ("in the old town",),
    "market square": ("on the market square",),
    "station quarter": ("in the station quarter",),
}
NEAR = ("near", "close to", "next to", "around the corner from")

FORMS: dict[str, dict[str, Forms]] = {
    "food": {kind: _food(kind) for kind in FOODS},
    "priceRange": {
        "less than £15": _amount("less than £15", "under £15"),
        "£15-25": _amount("£15-25", "£15 to £25", "between £15 and £25"),
        "more than £25": _amount("more than £25", "over £25"),
        "cheap": _level("low", "cheap"),
        "moderate": _level("moderate", "moderately priced"),
        "high": _level("high", "expensive"),
    },
    "customer rating": {
        "2 out of 5": _score("2 out of 5", "2 stars out of 5", "two out of five"),
        "3 out of 5": _score("3 out of 5", "3 stars out of 5", "three out of five"),
        "4 out of 5": _score("4 out of 5", "4 stars out of 5", "four out of five"),
        "poor": _opinion("poor", "poorly rated"),
        "average": _opinion("average"),
        "excellent": _opinion("excellent", "highly rated"),
    },
    "familyFriendly": {
        "yes": Forms(
            before=("family-friendly", "child-friendly"),
            after=("for the whole family", "suitable for children"),
            does=("is family-friendly", "welcomes families", "is suitable for children"),
            clause=("families are welcome", "children are welcome"),
        ),
        "no": Forms(
            before=("adults-only",),
            after=("for adults only", "not suitable for children"),
            does=("is not family-friendly", "does not welcome families", "is not suitable for children"),
            clause=("families are not welcome", "children are not welcome"),
        ),
    },
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "name": NAMES,
    "eatType": EAT_TYPES,
    "food": FOODS,
    "priceRange": tuple(FORMS["priceRange"]),
    "customer rating": tuple(FORMS["customer rating"]),
    "area": tuple(AREAS),
    "familyFriendly": tuple(FORMS["familyFriendly"]),
    "near": LANDMARKS,
}
"""Values of each attribute, in the order of a meaning representation."""


def place(area: str | None, landmark: str | None) -> Forms:
    """Return phrases for the location. An area and a landmark are stated together, in either order."""
    areas = AREAS[area] if area else ()
    nears = tuple(f"{near} {landmark}" for near in NEAR) if landmark else ()
    both = tuple(f"{one} {two}" for pair in product(areas, nears) for one, two in (pair, pair[::-1]))
    return _say(
        both or areas or nears,
        after="*",
        does="is located * | lies * | stands * | can be found *",
        clause="you will find the place * | you can find the place *",
    )
