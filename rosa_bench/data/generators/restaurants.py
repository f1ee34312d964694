"""Data-to-text generation without a download: a synthetic stand-in for E2E NLG, for trying out the runner.

A row holds a meaning representation (a list of restaurant attributes) and one reference text that expresses it, in the
columns of E2E (Novikova et al., 2017, arXiv:1706.09254). We differ from E2E in three ways:

* The references come from the templates below, not from people.
* Each reference states every attribute exactly once, whereas people omit and add some.
* The names, foods and values are our own (`rosa_bench.data.generators.restaurant_words`).

A reference starts with a sentence that names the restaurant. Up to two more sentences cover the remaining attributes.
"""

import re
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TypeVar

from rosa_bench.data.generators.restaurant_words import ATTRIBUTES, FORMS, Forms, place
from rosa_bench.system.errors import UserError

T = TypeVar("T")
Meaning = dict[str, str]  # value by attribute, in the order of ATTRIBUTES

SIZES = {"train": 800, "validation": 60, "test": 60}  # meaning representations
REFERENCES = {"train": (1, 2, 3, 4), "validation": (3, 4, 5, 6), "test": (3, 4, 5, 6)}  # per meaning, in rotation
EXTRA_ATTRIBUTES = range(2, 7)  # number of attributes besides the name
SEED = "restaurants"

# Blanks of a template:
#   {name}                  the restaurant's name
#   {noun}                  "a", up to two adjectives, and the eatType
#   {where}                 area and landmark, as a phrase; before any of the blanks below, which could take this fact
#   {after} {does} {clause} any one fact, in that form (`Forms`)
OPENINGS = (
    "{name} is {noun}.",
    "{name} is {noun} {where}.",
    "{name} is {noun} located {where}.",
    "{name} is {noun} {where} and {does}.",
    "{name} is {noun} {after}.",
    "{name} is {noun} that {does}.",
    "{name} is {noun} that {does} and {does}.",
    "{name}, {noun} {after}, {does}.",
    "{name}, which {does}, is {noun} {after}.",
    "{noun} {after}, {name} {does}.",
    "{noun} called {name} stands {where}.",
    "{where}, {name} is {noun} {after}.",
    "located {where}, {name} is {noun} that {does}.",
    "{where} there is {noun} called {name}.",
    "there is {noun} called {name} {where}.",
    "there is {noun} called {name} that {does}.",
)
OPENINGS_WITHOUT_NOUN = (
    "{name} {does}.",
    "{name} {does} and {does}.",
    "{name}, which {does}, {does}.",
    "{name} is a place that {does}.",
    "{name} is a place that {does} and {does}.",
    "located {where}, {name} {does}.",
    "located {where}, {name} {does} and {does}.",
    "{where} there is a place called {name} that {does}.",
    "there is a place called {name} that {does}.",
)
# By the number of facts stated. Clauses come last, so that "it" never follows a different subject.
CONTINUATIONS = {1: ("it {does}.",), 2: ("it {does} and {does}.",)}
ENDINGS = {
    1: ("it {does}.", "{clause}."),
    2: ("it {does} and {does}.", "it {does}, and {clause}.", "{clause}, and {clause}."),
}
# By the number of facts left after the opening: how many facts each following sentence may state.
CUTS = {0: ((),), 1: ((1,),), 2: ((2,), (1, 1)), 3: ((2, 1), (1, 2)), 4: ((2, 2),)}


def load(split: str) -> list[dict[str, str]]:
    """Return the rows of a split: ``meaning_representation`` and ``human_reference``, grouped by meaning.

    No meaning representation is repeated within or across splits, and its references are all different. The rows are
    the same in every process and Python version. Raises `UserError` for an unknown split.
    """
    if split not in SIZES:
        raise UserError(f"the restaurants task has no split {split!r}; choose one of {', '.join(SIZES)}")
    return [dict(row) for row in _rows(split)]


@cache
def _rows(split: str) -> tuple[dict[str, str], ...]:
    """Make the rows of a split. The jobs of a sweep share them."""
    rng = Random(f"{SEED} {split}")  # a string seed is hashed by SHA-512, not hash(): equal in all processes
    rows = []
    for turn, meaning in enumerate(_meanings()[split]):
        written = ", ".join(f"{attribute}[{value}]" for attribute, value in meaning.items())
        count = REFERENCES[split][turn % len(REFERENCES[split])]
        rows += [
            {"meaning_representation": written, "human_reference": text} for text in _references(meaning, count, rng)
        ]
    return tuple(rows)


@cache
def _meanings() -> dict[str, list[Meaning]]:
    """Draw the meaning representations of all splits from one stream, so that no two are equal."""
    rng = Random(SEED)
    others = [attribute for attribute in ATTRIBUTES if attribute != "name"]
    drawn: dict[tuple[tuple[str, str], ...], Meaning] = {}
    while len(drawn) < sum(SIZES.values()):
        chosen = {"name", *_shuffled(others, rng)[: _pick(EXTRA_ATTRIBUTES, rng)]}
        meaning = {attribute: _pick(values, rng) for attribute, values in ATTRIBUTES.items() if attribute in chosen}
        drawn[tuple(meaning.items())] = meaning
    rest = iter(drawn.values())
    return {split: [next(rest) for _ in range(size)] for split, size in SIZES.items()}


def _references(meaning: Meaning, count: int, rng: Random) -> list[str]:
    """Return ``count`` different texts that express ``meaning``. More than ten exist for every meaning."""
    texts: dict[str, None] = {}  # a set that keeps its order
    while len(texts) < count:
        texts[Draft(meaning, rng).write()] = None
    return list(texts)


class Draft:
    """A reference being written. ``format_map`` asks it for the blanks of a template from left to right."""

    def __init__(self, meaning: Meaning, rng: Random):
        self._meaning, self._rng = meaning, rng
        self._forms = {attribute: FORMS[attribute][value] for attribute, value in meaning.items() if attribute in FORMS}
        if "area" in meaning or "near" in meaning:
            self._forms["place"] = place(meaning.get("area"), meaning.get("near"))
        self._left = _shuffled(list(self._forms), rng)
        # State of the current sentence:
        self._spare = 0  # facts without a blank of their own
        self._verbs: set[str] = set()  # first words of its predicates

    def write(self) -> str:
        """Choose and fill up to three sentences that together state every fact."""
        openings = OPENINGS if "eatType" in self._meaning else OPENINGS_WITHOUT_NOUN
        sentences = [self._sentence(_pick([opening for opening in openings if self._fits(opening)], self._rng))]
        for count in _pick(CUTS[len(self._left)], self._rng):
            templates = ENDINGS if count == len(self._left) else CONTINUATIONS
            sentences.append(self._sentence(_pick(templates[count], self._rng)))
        return " ".join(sentences)

    def _fits(self, opening: str) -> bool:
        left = len(self._left) - _count_facts(opening)
        return left in CUTS and ("{where}" not in opening or "place" in self._left)

    def _sentence(self, template: str) -> str:
        """Fill a template; write "an" before a vowel and an initial capital."""
        self._spare = len(self._left) - _count_facts(template)
        self._verbs.clear()
        text = re.sub(r"\ba (?=[aeiou])", "an ", template.format_map(self), flags=re.IGNORECASE)
        return text[0].upper() + text[1:]

    def __getitem__(self, blank: str) -> str:
        """Return the words for one blank, and mark the facts they state as used."""
        if blank == "name":
            return self._meaning["name"]
        if blank == "noun":
            return self._noun()
        if blank == "where":
            self._left.remove("place")
            return _pick(self._forms["place"].after, self._rng)
        forms: Forms = self._forms[self._left.pop(0)]
        if blank != "does":
            return _pick(getattr(forms, blank), self._rng)
        predicate = _pick([words for words in forms.does if words.split()[0] not in self._verbs], self._rng)
        self._verbs.add(predicate.split()[0])
        return predicate

    def _noun(self) -> str:
        most = min(self._spare, _pick((0, 1, 1, 2), self._rng))
        stated = [fact for fact in self._left if self._forms[fact].before][:most]
        self._left = [fact for fact in self._left if fact not in stated]
        adjectives = {fact: _pick(self._forms[fact].before, self._rng) for fact in self._forms if fact in stated}
        food = adjectives.pop("food", "")  # directly before the noun, without a comma: "a cheap Greek inn"
        return " ".join(filter(None, ("a", ", ".join(adjectives.values()), food, self._meaning["eatType"])))


def _count_facts(template: str) -> int:
    """Count the facts that a template always states; its noun may state more."""
    return len(re.findall(r"\{(?:where|after|does|clause)\}", template))


# Python guarantees the same numbers in every version only for `Random.random`.


def _pick(entries: Sequence[T], rng: Random) -> T:
    return entries[int(rng.random() * len(entries))]


def _shuffled(entries: Sequence[T], rng: Random) -> list[T]:
    return sorted(entries, key=lambda _: rng.random())
