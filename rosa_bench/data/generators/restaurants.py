"""Data-to-text generation without a download: a synthetic stand-in for E2E NLG, to try the runner with.

A row is a meaning representation, a list of attributes of a restaurant, and one reference, a text that expresses it, in
the columns of E2E (Novikova et al., 2017, arXiv:1706.09254). We differ from E2E in three ways. The references come from
the templates below and are nobody's; each says every attribute exactly once, where people leave out and add; and the
names, foods and values are our own (`rosa_bench.data.generators.restaurant_words`).

A reference opens with one sentence on the restaurant by name; one or two more tell of "it" what is left.
"""

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from rosa_bench.data.generators.restaurant_words import ATTRIBUTES, FORMS, Forms, place

T = TypeVar("T")
Meaning = dict[str, str]  # value by attribute, in the order of ATTRIBUTES

SIZES = {"train": 800, "validation": 60, "test": 60}  # meaning representations
REFERENCES = {"train": (1, 2, 3, 4), "validation": (3, 4, 5, 6), "test": (3, 4, 5, 6)}  # of one of them, in turn
MORE = range(2, 7)  # attributes of a meaning representation besides the name
SEED = "restaurants"

# What fills the blanks of a template:
#   {name}                  the restaurant's name
#   {noun}                  "a", up to two adjectives, and the eatType
#   {where}                 area and landmark, as a phrase
#   {after} {does} {clause} any one thing, in that form (`Forms`)
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
# By how many things they tell. Clauses come last, so that no "it" follows another subject.
CONTINUATIONS = {1: ("it {does}.",), 2: ("it {does} and {does}.",)}
ENDINGS = {
    1: ("it {does}.", "{clause}."),
    2: ("it {does} and {does}.", "it {does}, and {clause}.", "{clause}, and {clause}."),
}
# By how many things the opening leaves to tell: how many the continuations may tell, each in its turn.
CUTS = {0: ((),), 1: ((1,),), 2: ((2,), (1, 1)), 3: ((2, 1), (1, 2)), 4: ((2, 2),)}


def load(split: str) -> list[dict[str, str]]:
    """The rows of a split: ``meaning_representation`` and ``human_reference``, those of one meaning together.

    No meaning representation comes twice, in one split or in two, and its references all differ. The rows are the same
    in every process and Python version.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SIZES:
        raise ValueError(f"the restaurants task has no split {split!r}: choose one of {', '.join(SIZES)}")
    rng = Random(f"{SEED} {split}")  # a text seed is hashed by SHA-512, not by hash(), so it outlives the process
    rows = []
    for turn, meaning in enumerate(_meanings()[split]):
        written = ", ".join(f"{attribute}[{value}]" for attribute, value in meaning.items())
        count = REFERENCES[split][turn % len(REFERENCES[split])]
        rows += [
            {"meaning_representation": written, "human_reference": text} for text in _references(meaning, count, rng)
        ]
    return rows


def _meanings() -> dict[str, list[Meaning]]:
    """The meaning representations of all splits, from one stream: so no two are equal."""
    rng = Random(SEED)
    others = [attribute for attribute in ATTRIBUTES if attribute != "name"]
    drawn: dict[tuple[tuple[str, str], ...], Meaning] = {}
    while len(drawn) < sum(SIZES.values()):
        told = {"name", *_shuffled(others, rng)[: _pick(MORE, rng)]}
        meaning = {attribute: _pick(values, rng) for attribute, values in ATTRIBUTES.items() if attribute in told}
        drawn[tuple(meaning.items())] = meaning
    rest = iter(drawn.values())
    return {split: [next(rest) for _ in range(size)] for split, size in SIZES.items()}


def _references(meaning: Meaning, count: int, rng: Random) -> list[str]:
    """``count`` different texts that express ``meaning``, of which there must be so many: here always more than ten."""
    texts: dict[str, None] = {}  # a set that keeps its order
    while len(texts) < count:
        texts[Draft(meaning, rng).write()] = None
    return list(texts)


class Draft:
    """One reference in the making. A template, filled by ``format_map``, asks it for its blanks from left to right."""

    def __init__(self, meaning: Meaning, rng: Random):
        self._meaning, self._rng = meaning, rng
        self._forms = {attribute: FORMS[attribute][value] for attribute, value in meaning.items() if attribute in FORMS}
        if "area" in meaning or "near" in meaning:
            self._forms["place"] = place(meaning.get("area"), meaning.get("near"))
        self._left = _shuffled(list(self._forms), rng)
        # In the sentence at hand:
        self._spare = 0  # how many things have no blank of their own
        self._verbs: set[str] = set()  # the first words of its predicates

    def write(self) -> str:
        """Choose the sentences and fill them: at most three, until nothing is left to tell."""
        openings = OPENINGS if "eatType" in self._meaning else OPENINGS_WITHOUT_NOUN
        sentences = [self._sentence(_pick([opening for opening in openings if self._fits(opening)], self._rng))]
        for count in _pick(CUTS[len(self._left)], self._rng):
            templates = ENDINGS if count == len(self._left) else CONTINUATIONS
            sentences.append(self._sentence(_pick(templates[count], self._rng)))
        return " ".join(sentences)

    def _fits(self, opening: str) -> bool:
        left = len(self._left) - _things(opening)
        return left in CUTS and ("{where}" not in opening or "place" in self._left)

    def _sentence(self, template: str) -> str:
        """Fill a template; spell "an" before a vowel, and a capital first."""
        self._spare = len(self._left) - _things(template)
        self._verbs.clear()
        if "{where}" in template:
            self._left.sort(key=lambda thing: thing == "place")  # last, where no other blank takes it
        text = re.sub(r"\ba (?=[aeiou])", "an ", template.format_map(self), flags=re.IGNORECASE)
        return text[0].upper() + text[1:]

    def __getitem__(self, blank: str) -> str:
        """The words for one blank of a template; what they tell is no longer left."""
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
        told = [thing for thing in self._left if self._forms[thing].before][:most]
        self._left = [thing for thing in self._left if thing not in told]
        adjectives = {thing: _pick(self._forms[thing].before, self._rng) for thing in self._forms if thing in told}
        food = adjectives.pop("food", "")  # next to the noun, after no comma: "a cheap Greek inn"
        return " ".join(filter(None, ("a", ", ".join(adjectives.values()), food, self._meaning["eatType"])))


def _things(template: str) -> int:
    """How many things a template surely tells; its noun may tell more."""
    return len(re.findall(r"\{(?:where|after|does|clause)\}", template))


# Of `Random`, only random() is promised to give the same numbers in every version of Python.


def _pick(entries: Sequence[T], rng: Random) -> T:
    return entries[int(rng.random() * len(entries))]


def _shuffled(entries: Sequence[T], rng: Random) -> list[T]:
    return sorted(entries, key=lambda _: rng.random())
