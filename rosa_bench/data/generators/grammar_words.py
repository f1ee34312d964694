"""Vocabulary of the grammar task, and the sampling of words for a minimal pair.

The two vocabularies share no content word. The templates of the grammar task rely on these rules, so a new word must
follow them:

* `actions` take exactly one object, a thing, and sound natural in the progressive; `doings` never take an object;
* no base form equals the past or the participle, and no noun has the same singular and plural;
* the first letter decides the article (no "hour", no "unicorn"), and gendered nouns and names are unambiguous.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Noun(NamedTuple):
    """A countable noun. ``noun[0]`` is the singular, ``noun[1]`` the plural."""

    singular: str
    plural: str


class Verb(NamedTuple):
    """The five forms of a verb."""

    base: str
    third: str
    past: str
    participle: str
    ing: str


class GrammarWords(NamedTuple):
    """The content words of one split, by their role in a template."""

    people: tuple[Noun, ...]
    men: tuple[Noun, ...]
    women: tuple[Noun, ...]
    male_names: tuple[str, ...]
    female_names: tuple[str, ...]
    things: tuple[Noun, ...]
    qualities: tuple[str, ...]  # adjectives for a thing
    states: tuple[str, ...]  # adjectives for a person
    frequencies: tuple[str, ...]  # adverbs of habit
    actions: tuple[Verb, ...]  # done by a person to a thing
    attitudes: tuple[Verb, ...]  # done by a person to a person, possibly the same one
    doings: tuple[Verb, ...]  # done by a person, without an object
    seemed: str  # a raising verb, in the past
    # Past-tense verbs that take one complement of the pair compared, but not the other:
    claimed: tuple[str, ...]  # a clause with "that", not with "whether"
    inquired: tuple[str, ...]  # a clause with "whether", not with "that"
    enjoyed: tuple[str, ...]  # a gerund, not an infinitive
    decided: tuple[str, ...]  # an infinitive, not a gerund


TRAIN = GrammarWords(
    people=(
        Noun("pilot", "pilots"),
        Noun("nurse", "nurses"),
        Noun("teacher", "teachers"),
        Noun("lawyer", "lawyers"),
        Noun("farmer", "farmers"),
        Noun("baker", "bakers"),
        Noun("artist", "artists"),
        Noun("dentist", "dentists"),
        Noun("student", "students"),
        Noun("engineer", "engineers"),
        Noun("gardener", "gardeners"),
        Noun("secretary", "secretaries"),
    ),
    men=(
        Noun("man", "men"),
        Noun("king", "kings"),
        Noun("duke", "dukes"),
        Noun("uncle", "uncles"),
        Noun("landlord", "landlords"),
    ),
    women=(
        Noun("woman", "women"),
        Noun("queen", "queens"),
        Noun("duchess", "duchesses"),
        Noun("aunt", "aunts"),
        Noun("landlady", "landladies"),
    ),
    male_names=("Peter", "David", "Robert", "Thomas", "Kevin", "Daniel"),
    female_names=("Mary", "Susan", "Laura", "Emma", "Helen", "Alice"),
    things=(
        Noun("lamp", "lamps"),
        Noun("table", "tables"),
        Noun("mirror", "mirrors"),
        Noun("bicycle", "bicycles"),
        Noun("clock", "clocks"),
        Noun("portrait", "portraits"),
        Noun("umbrella", "umbrellas"),
        Noun("statue", "statues"),
        Noun("piano", "pianos"),
        Noun("basket", "baskets"),
        Noun("bookshelf", "bookshelves"),
        Noun("aquarium", "aquariums"),
    ),
    qualities=("old", "large", "elegant", "heavy", "blue", "unusual"),
    states=("nervous", "hungry", "cheerful", "polite", "curious", "busy"),
    frequencies=("often", "usually", "regularly"),
    actions=(
        Verb("admire", "admires", "admired", "admired", "admiring"),
        Verb("inspect", "inspects", "inspected", "inspected", "inspecting"),
        Verb("restore", "restores", "restored", "restored", "restoring"),
        Verb("describe", "describes", "described", "described", "describing"),
        Verb("conceal", "conceals", "concealed", "concealed", "concealing"),
        Verb("replace", "replaces", "replaced", "replaced", "replacing"),
    ),
    attitudes=(
        Verb("trust", "trusts", "trusted", "trusted", "trusting"),
        Verb("defend", "defends", "defended", "defended", "defending"),
        Verb("blame", "blames", "blamed", "blamed", "blaming"),
        Verb("encourage", "encourages", "encouraged", "encouraged", "encouraging"),
        Verb("entertain", "entertains", "entertained", "entertained", "entertaining"),
    ),
    doings=(
        Verb("arrive", "arrives", "arrived", "arrived", "arriving"),
        Verb("smile", "smiles", "smiled", "smiled", "smiling"),
        Verb("complain", "complains", "complained", "complained", "complaining"),
        Verb("sneeze", "sneezes", "sneezed", "sneezed", "sneezing"),
        Verb("hesitate", "hesitates", "hesitated", "hesitated", "hesitating"),
        Verb("sleep", "sleeps", "slept", "slept", "sleeping"),
        Verb("listen", "listens", "listened", "listened", "listening"),
    ),
    seemed="seemed",
    claimed=("claimed", "believed", "thought"),
    inquired=("inquired", "asked"),
    enjoyed=("enjoyed", "avoided", "considered"),
    decided=("decided", "hoped", "agreed"),
)

VALIDATION = GrammarWords(
    people=(
        Noun("doctor", "doctors"),
        Noun("tourist", "tourists"),
        Noun("writer", "writers"),
        Noun("singer", "singers"),
        Noun("librarian", "librarians"),
        Noun("scientist", "scientists"),
        Noun("waiter", "waiters"),
        Noun("carpenter", "carpenters"),
        Noun("athlete", "athletes"),
        Noun("architect", "architects"),
        Noun("journalist", "journalists"),
        Noun("plumber", "plumbers"),
    ),
    men=(
        Noun("boy", "boys"),
        Noun("prince", "princes"),
        Noun("monk", "monks"),
        Noun("nephew", "nephews"),
        Noun("grandfather", "grandfathers"),
    ),
    women=(
        Noun("girl", "girls"),
        Noun("princess", "princesses"),
        Noun("nun", "nuns"),
        Noun("niece", "nieces"),
        Noun("grandmother", "grandmothers"),
    ),
    male_names=("James", "Michael", "Brian", "George", "Simon", "Edward"),
    female_names=("Anna", "Julia", "Linda", "Rachel", "Sarah", "Diana"),
    things=(
        Noun("bench", "benches"),
        Noun("ladder", "ladders"),
        Noun("sculpture", "sculptures"),
        Noun("camera", "cameras"),
        Noun("guitar", "guitars"),
        Noun("vase", "vases"),
        Noun("cabinet", "cabinets"),
        Noun("armchair", "armchairs"),
        Noun("telescope", "telescopes"),
        Noun("trophy", "trophies"),
        Noun("suitcase", "suitcases"),
        Noun("engine", "engines"),
    ),
    qualities=("small", "ancient", "shiny", "green", "expensive", "dusty"),
    states=("sleepy", "proud", "thirsty", "friendly", "generous", "lonely"),
    frequencies=("sometimes", "frequently", "occasionally"),
    actions=(
        Verb("examine", "examines", "examined", "examined", "examining"),
        Verb("ignore", "ignores", "ignored", "ignored", "ignoring"),
        Verb("repair", "repairs", "repaired", "repaired", "repairing"),
        Verb("acquire", "acquires", "acquired", "acquired", "acquiring"),
        Verb("mention", "mentions", "mentioned", "mentioned", "mentioning"),
        Verb("discard", "discards", "discarded", "discarded", "discarding"),
    ),
    attitudes=(
        Verb("criticize", "criticizes", "criticized", "criticized", "criticizing"),
        Verb("respect", "respects", "respected", "respected", "respecting"),
        Verb("praise", "praises", "praised", "praised", "praising"),
        Verb("amuse", "amuses", "amused", "amused", "amusing"),
        Verb("comfort", "comforts", "comforted", "comforted", "comforting"),
    ),
    doings=(
        Verb("disappear", "disappears", "disappeared", "disappeared", "disappearing"),
        Verb("laugh", "laughs", "laughed", "laughed", "laughing"),
        Verb("apologize", "apologizes", "apologized", "apologized", "apologizing"),
        Verb("cough", "coughs", "coughed", "coughed", "coughing"),
        Verb("frown", "frowns", "frowned", "frowned", "frowning"),
        Verb("kneel", "kneels", "knelt", "knelt", "kneeling"),
        Verb("yawn", "yawns", "yawned", "yawned", "yawning"),
    ),
    seemed="appeared",
    claimed=("insisted", "assumed", "suspected"),
    inquired=("investigated", "explored"),
    enjoyed=("postponed", "denied", "resisted"),
    decided=("promised", "pretended", "vowed"),
)

CLOSED_CLASSES = {
    "determiners": "a an the this these that those which whose",
    "quantifiers": "one two many several another every each both most no few any",
    "pronouns": "i me he him she her we us they them himself herself themselves who what there",
    "auxiliaries": "is are was were be has have had did will could should might",
    "prepositions": "near behind beside",
    "adverbs": "not ever how why when where",
    "conjunctions": "but if whether after before to",
}
FUNCTION_WORDS: frozenset[str] = frozenset(word for words in CLOSED_CLASSES.values() for word in words.split())
"""Function words of the templates, which both splits share."""


class Draw:
    """Draws the ingredients of a minimal pair: random words, and the levels of its cell in a factorial design.

    The pair's index, written in mixed radix, gives the levels of its factors in turn. Over consecutive indices all
    combinations of levels therefore occur equally often, which independent coin tosses only approximate.
    """

    def __init__(self, words: GrammarWords, rng: Random, *, index: int):
        self.words = words
        self._rng = rng
        self._cell = index

    def level(self, *levels: T) -> T:
        """Return the level of the next factor."""
        self._cell, chosen = divmod(self._cell, len(levels))
        return levels[chosen]

    def pick(self, entries: Sequence[T]) -> T:
        """Return a random entry."""
        return self._rng.choice(entries)

    def pick_two(self, entries: Sequence[T]) -> tuple[T, T]:
        """Return two distinct random entries."""
        first, second = self._rng.sample(entries, 2)
        return first, second
