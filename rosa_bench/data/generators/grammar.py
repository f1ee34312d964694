"""Sentence acceptability without a download: a synthetic stand-in for CoLA, for trying out the runner.

Each example is half of a minimal pair, as in BLiMP (Warstadt et al., 2020, arXiv:1912.00582): one sentence is
acceptable; the other differs only in one word or in word order and is not. We differ from BLiMP in two ways:

* Sentences are labelled one at a time. Number, gender, distractor and auxiliary are therefore counterbalanced, so
  neither a single word nor the length predicts the label; only word order does.
* The two splits share only their function words. What transfers between them is grammar, not vocabulary.

As is usual in linguistics, a star marks an unacceptable sentence.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import permutations
from random import Random

from rosa_bench.data.generators.grammar_words import TRAIN, VALIDATION, Draw, GrammarWords
from rosa_bench.system.errors import UserError

Pair = tuple[str, str]  # acceptable, unacceptable; `_sentence` does the spelling

SIZES = {"train": 4000, "validation": 1000}  # sentences
MOST = 2000  # sentences of one phenomenon: not every template has many more
WORDS = {"train": TRAIN, "validation": VALIDATION}

SINGULAR, PLURAL = 0, 1  # grammatical number; indexes a noun's forms or one of these pairs
BE = ("is", "are")
BE_PAST = ("was", "were")
HAVE = ("has", "have")

REFLEXIVES = ("himself", "herself", "themselves")
PRONOUNS = (("I", "me"), ("he", "him"), ("she", "her"), ("we", "us"), ("they", "them"))  # nominative, accusative
PLACES = ("near", "behind", "beside")
MODALS = ("will", "could", "should", "might")


def _swapped(frame: Callable[[str, str], str], first: str, second: str) -> Pair:
    """Fill a frame's two slots in the acceptable order, then swapped. An empty string leaves a slot empty."""
    return frame(first, second), frame(second, first)


def subject_verb_agreement(draw: Draw) -> Pair:
    """The verb agrees with the head of its subject, across an attractor.

    "The pilot near the lamps is hungry." / *"The pilot near the lamps are hungry."
    """
    words = draw.words
    number, nearest = draw.level(SINGULAR, PLURAL), draw.level(SINGULAR, PLURAL)
    head, person = draw.pick_two(words.people)
    state, verb, often = draw.pick(words.states), draw.pick(words.doings), draw.pick(words.frequencies)
    attractor = draw.level(
        f"{draw.pick(PLACES)} the {draw.pick(words.things)[nearest]}",
        f"that the {person[nearest]} {draw.pick(words.attitudes).past}",
    )
    predicates = draw.level(
        (f"is {state}", f"are {state}"),
        (f"was {state}", f"were {state}"),
        (f"has {verb.participle}", f"have {verb.participle}"),
        (f"{often} {verb.third}", f"{often} {verb.base}"),
    )
    subject = f"the {head[number]} {attractor}"
    return f"{subject} {predicates[number]}.", f"{subject} {predicates[1 - number]}."


def reflexive(draw: Draw) -> Pair:
    """A reflexive agrees with the subject of its own clause (Principle A), not with another name in the sentence.

    "The queen that Peter blamed defended herself." / *"The queen that Peter blamed defended himself."
    """
    words = draw.words
    right, wrong = draw.level(*permutations(REFLEXIVES, 2))
    name = draw.pick(draw.level(words.male_names, words.female_names))
    gendered = {"himself": words.men, "herself": words.women}.get(right) or draw.level(words.men, words.women)
    subject = draw.pick(gendered)[PLURAL if right == "themselves" else SINGULAR]
    blamed, defended = (verb.past for verb in draw.pick_two(words.attitudes))
    clause = draw.level(
        f"the {subject} that {name} {blamed} {defended}",
        f"{name} {draw.pick(words.claimed)} that the {subject} {defended}",
    )
    return f"{clause} {right}.", f"{clause} {wrong}."


def determiner_noun_agreement(draw: Draw) -> Pair:
    """A determiner agrees in number with its noun, across an adjective.

    "The nurse inspected these old lamps." / *"The nurse inspected this old lamps."
    """
    words = draw.words
    number = draw.level(SINGULAR, PLURAL)
    determiners = draw.level(
        ("this", "these"), ("that", "those"), ("every", "several"), ("one", "many"), ("each", "both")
    )
    predicate = draw.level(draw.pick(words.actions).past, f"{draw.pick(words.doings).past} {draw.pick(PLACES)}")
    noun = f"{draw.level('', draw.pick(words.qualities))} {draw.pick(words.things)[number]}"
    start = f"the {draw.pick(words.people)[draw.level(SINGULAR, PLURAL)]} {predicate}"
    return f"{start} {determiners[number]} {noun}.", f"{start} {determiners[1 - number]} {noun}."


def argument_structure(draw: Draw) -> Pair:
    """A verb selects its complement: object or no object, "that" or "whether", gerund or infinitive.

    "Mary inspected the lamp." / *"Mary arrived the lamp.", and "Mary arrived near it." / *"Mary inspected near it."
    """
    words = draw.words
    person, thing = draw.pick(words.people)[draw.level(SINGULAR, PLURAL)], draw.pick(words.things).singular
    action, doing = draw.pick(words.actions), draw.pick(words.doings)
    had_done = f"the {person} had {doing.participle}"
    selections = draw.level(
        ((action.past, f"the {thing}"), (doing.past, f"{draw.pick(PLACES)} the {thing}")),
        ((draw.pick(words.claimed), f"that {had_done}"), (draw.pick(words.inquired), f"whether {had_done}")),
        (
            (draw.pick(words.enjoyed), f"{action.ing} the {thing}"),
            (draw.pick(words.decided), f"to {action.base} the {thing}"),
        ),
    )
    (verb, complement), (other_verb, _) = draw.level(selections, selections[::-1])
    # A name, because after a common noun "inspected near the lamp" could be a reduced relative clause.
    subject = draw.pick(draw.level(words.male_names, words.female_names))
    return f"{subject} {verb} {complement}.", f"{subject} {other_verb} {complement}."


def question_formation(draw: Draw) -> Pair:
    """A question fronts the auxiliary of its main clause, not that of a relative clause.

    "Will the pilot who might sleep inspect the lamp?" / *"Might the pilot who sleep will inspect the lamp?"
    """
    words = draw.words
    number = draw.level(SINGULAR, PLURAL)
    person, thing = draw.pick(words.people)[number], draw.pick(words.things).singular
    action, doing, state = draw.pick(words.actions), draw.pick(words.doings), draw.pick(words.states)
    tenses = (BE[number], BE_PAST[number])
    (main, inner), rest, predicate = draw.level(
        (draw.level(tenses, tenses[::-1]), state, f"{action.ing} the {thing}"),
        (draw.pick_two(MODALS), doing.base, f"{action.base} the {thing}"),
    )
    question = f"{main} the {person} who {inner} {rest} {predicate}?"
    why = draw.pick(("why", "when", "where"))
    return draw.level(
        (question, f"{inner} the {person} who {rest} {main} {predicate}?"),
        (question, f"{main} the {person} who {rest} {inner} {predicate}?"),
        _swapped(lambda a, b: f"{why} {a} the {person} {b} {doing.base}?", "did", ""),
    )


def negative_polarity(draw: Draw) -> Pair:
    """A polarity item ("ever", "any") must be c-commanded by a negation or a condition, not merely preceded by one.

    "No pilot that the nurse trusted has ever arrived." / *"The pilot that no nurse trusted has ever arrived."
    """
    words = draw.words
    number = draw.level(SINGULAR, PLURAL)
    has = HAVE[number]
    one, two = (person[number] for person in draw.pick_two(words.people))
    thing, seen, attitude = draw.pick(words.things), draw.pick(words.actions).participle, draw.pick(words.attitudes)
    it = f"the {thing.singular}"
    verb, other_verb = draw.pick_two(words.doings)
    came, comes, trusted = verb.participle, (verb.third, verb.base)[number], attitude.participle
    no = draw.level("no", ("no", "few")[number])
    finding = draw.level(f"ever {seen} {it}", f"{seen} any {thing.plural}")
    return draw.level(
        # The licensor moves:
        _swapped(lambda a, b: f"{a} {one} that {b} {two} {attitude.past} {has} {finding}.", no, "the"),
        _swapped(lambda a, b: f"{a} {one} {has} {came}, but {b} {two} {has} {finding}.", "the", no),
        _swapped(lambda a, b: f"the {one} who {has} {a} {came} {has} {b} {finding}.", "", "not"),
        # The polarity item moves:
        _swapped(lambda a, b: f"the {one} that {no} {two} {has} {a} {trusted} {has} {b} {came}.", "ever", ""),
        _swapped(lambda a, b: f"the {one} who {has} not {a} {seen} {it} {has} {b} {came}.", "ever", ""),
        _swapped(lambda a, b: f"if the {one} {a} {comes}, the {two} will {b} {other_verb.base}.", "ever", ""),
    )


def island(draw: Draw) -> Pair:
    """A question word cannot leave an island (Ross, 1967): adverbial clause, relative clause, left branch of a noun.

    "What did the nurse who admired the lamp inspect?" / *"What did the nurse who admired inspect the lamp?"
    """
    words = draw.words
    number = draw.level(SINGULAR, PLURAL)
    one, two = (person[draw.level(SINGULAR, PLURAL)] for person in draw.pick_two(words.people))
    main, inner = draw.pick_two(words.actions)
    see, saw = main.base, inner.past
    noun, when = draw.pick(words.things)[number], draw.pick(("after", "before", "when"))
    which = draw.pick((("which", "whose"), ("which", "whose", "how many"))[number])
    modified = f"{draw.level('', draw.pick(words.qualities))} {noun}"
    return draw.level(
        _swapped(lambda a, b: f"what did the {one} {see} {a} {when} the {two} {saw} {b}?", "", f"the {noun}"),
        _swapped(lambda a, b: f"what did the {one} who {saw} {a} {see} {b}?", f"the {noun}", ""),
        _swapped(lambda a, b: f"{which} {a} did the {one} {see} {b}?", modified, ""),
    )


def tense_aspect(draw: Draw) -> Pair:
    """An auxiliary selects the verb form: "has" the participle, "is" the progressive, modals and "did" the base form.

    "The nurse has not inspected the lamp." / *"The nurse has not inspecting the lamp."
    """
    words = draw.words
    right, shift = draw.level(0, 1, 2), draw.level(1, 2)
    number = draw.level(SINGULAR, PLURAL)
    action, (thing, other) = draw.pick(words.actions), draw.pick_two(words.things)
    auxiliary = (HAVE[number], BE[number], draw.pick(("will", "did", "could")))[right]
    forms = (action.participle, action.ing, action.base)
    subject = f"the {draw.pick(words.people)[number]} {draw.level('', f'{draw.pick(PLACES)} the {other.plural}')}"
    start, mark = draw.level((f"{subject} {auxiliary} not", "."), (f"{auxiliary} {subject}", "?"))
    end = f"the {thing.singular}{mark}"
    return f"{start} {forms[right]} {end}", f"{start} {forms[(right + shift) % 3]} {end}"


def pronoun_case(draw: Draw) -> Pair:
    """A pronoun is nominative as a subject, and accusative as an object or after a preposition.

    "The pilot near the lamp trusted him." / *"The pilot near the lamp trusted he."
    """
    words = draw.words
    (he, him), nominative = draw.level(*PRONOUNS), draw.level(True, False)
    person, thing = draw.pick(words.people)[draw.level(SINGULAR, PLURAL)], draw.pick(words.things).singular
    saw, trusted, came = (draw.pick(verbs).past for verbs in (words.actions, words.attitudes, words.doings))
    claimed, old, near = draw.pick(words.claimed), draw.pick(words.qualities), draw.pick(PLACES)
    it = f"the {thing}"
    if nominative:
        right, wrong = he, him
        start, end = draw.level((f"the {person} {claimed} that", f"{saw} {it}."), (f"{it} that", f"{saw} was {old}."))
    else:
        right, wrong = him, he
        start, end = draw.level((f"the {person} {near} {it} {trusted}", "."), (f"the {person} {came} {near}", "."))
    return f"{start} {right} {end}", f"{start} {wrong} {end}"


def there_insertion(draw: Draw) -> Pair:
    """A noun phrase introduced by "there" is indefinite (the definiteness effect; Milsark, 1974).

    "There was a lamp near every table." / *"There was every lamp near a table."
    """
    words = draw.words
    number = draw.level(SINGULAR, PLURAL)
    weak = draw.pick((("a", "another", "one"), ("several", "many", "two"))[number])
    strong = draw.pick((("every", "each"), ("most", "both"))[number])
    person, (thing, place) = draw.pick(words.people), draw.pick_two(words.things)
    lamp, near, table = draw.level(person, thing)[number], draw.pick(PLACES), place[number]
    was = BE_PAST[number]
    return draw.level(
        _swapped(lambda a, b: f"there {was} {a} {lamp} {near} {b} {table}.", weak, strong),
        _swapped(lambda a, b: f"{was} there {a} {lamp} {near} {b} {table}?", weak, strong),
        _swapped(lambda a, b: f"there could be {a} {lamp} {near} {b} {table}.", weak, strong),
        _swapped(lambda a, b: f"there {words.seemed} to be {a} {lamp} {near} {b} {table}.", weak, strong),
    )


TEMPLATES: dict[str, Callable[[Draw], Pair]] = {
    "subject_verb_agreement": subject_verb_agreement,
    "reflexive": reflexive,
    "determiner_noun_agreement": determiner_noun_agreement,
    "argument_structure": argument_structure,
    "question_formation": question_formation,
    "negative_polarity": negative_polarity,
    "island": island,
    "tense_aspect": tense_aspect,
    "pronoun_case": pronoun_case,
    "there_insertion": there_insertion,
}
PHENOMENA: tuple[str, ...] = tuple(TEMPLATES)


def sentences(split: str, *, phenomena: tuple[str, ...] = PHENOMENA, seed: int = 0) -> list[dict[str, str | int]]:
    """Return the shuffled rows of a split: sentence, label (1 acceptable, 0 not), phenomenon and idx.

    There are `SIZES` rows, or `MOST` of each phenomenon if that is fewer. Labels are balanced within each phenomenon,
    and no sentence is repeated. The same split and seed give the same rows in every process. Raises `UserError` for an
    unknown split.
    """
    if split not in SIZES:
        raise UserError(f"the grammar task has no split {split!r}; choose one of {', '.join(SIZES)}")
    return [
        {"sentence": sentence, "label": label, "phenomenon": phenomenon, "idx": idx}
        for idx, (sentence, label, phenomenon) in enumerate(_shuffled(split, phenomena, seed))
    ]


@lru_cache(maxsize=4)
def _shuffled(split: str, phenomena: tuple[str, ...], seed: int) -> tuple[tuple[str, int, str], ...]:
    """Make the rows of a split: sentence, label, phenomenon. The jobs of a sweep share them."""
    rng = Random(f"{split} {seed}")  # a string seed is hashed by SHA-512, not hash(): equal in all processes
    taken: set[str] = set()
    rows: list[tuple[str, int, str]] = []
    for turn in range(min(SIZES[split], MOST * len(phenomena)) // 2):
        index, which = divmod(turn, len(phenomena))
        phenomenon = phenomena[which]
        acceptable, unacceptable = _new_pair(phenomenon, WORDS[split], rng, index=index, taken=taken)
        rows += [(acceptable, 1, phenomenon), (unacceptable, 0, phenomenon)]
    rng.shuffle(rows)
    return tuple(rows)


def _new_pair(phenomenon: str, words: GrammarWords, rng: Random, *, index: int, taken: set[str]) -> Pair:
    """Draw from one cell of the design until both sentences are new, and add them to ``taken``."""
    while True:
        acceptable, unacceptable = map(_sentence, TEMPLATES[phenomenon](Draw(words, rng, index=index)))
        if taken.isdisjoint((acceptable, unacceptable)):
            taken.update((acceptable, unacceptable))
            return acceptable, unacceptable


def _sentence(words: str) -> str:
    """Fix the spelling: single spaces, none before punctuation, "an" before a vowel, initial capital."""
    text = re.sub(r" (?=[.?,])", "", " ".join(words.split()))
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return text[0].upper() + text[1:]
