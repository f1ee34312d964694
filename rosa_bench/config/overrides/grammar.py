"""Hydra's grammar in one place: read what a user typed as a text where the setting is a text, and write values.

Hydra guesses a type from the spelling, so a folder named ``2026_11_28`` would become the number 20261128, and the
commits ``4e56781`` and ``9e12345`` would both become infinity. A declared type leaves nothing to guess.
"""

import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from rosa_bench.config.declared import alternatives, hints, without_interpolation
from rosa_bench.config.groups import GROUPS, kinds
from rosa_bench.config.schema import Plain, Shorthand
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import settings_of
from rosa_bench.system.text.printable import printable

LONGEST = 10_000  # characters of an argument; Hydra's parser takes time that grows faster than the length
DEEPEST = 50  # brackets inside brackets; its recursion would otherwise end in a RecursionError
MOST_DIGITS = 300  # in a row; of thousands Python makes no number
# A text in quotes, as Hydra defines it: a backslash escapes the quote and, before a quote, another backslash.
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# A list of texts without a list inside it, and several such lists, separated by commas.
TEXTS = rf"""\[((?:{QUOTED}|[^][{{}}'"])*)\]"""
LISTS = re.compile(rf"\s*{TEXTS}\s*(?:,\s*{TEXTS}\s*)*")
SWEEP_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")  # needs no quotes, unless it is one of Hydra's words
GROUPS_OF_SETTINGS = ("experiment", "launch", "recipe")  # their files set several groups
ADDED = ("experiment", "launch")  # no run has them by default, so that Hydra wants a plus before them
WORDS = ("null", "true", "false", "inf", "nan")
INTERPOLATION = re.compile(r"\$\{[A-Za-z_.][^{}]*\}")


def spelled(arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Return overrides, as a user typed them, in Hydra's grammar.

    The value of a text setting is what follows the equals sign, to the letter; ``null`` is None where the setting
    allows that, ``~`` is the home folder, and quotes around the whole value are removed. In a ``sweep``, commas
    separate values, except inside quotes. So are the texts of a list. Values of other settings are left to Hydra.

    >>> spelled(["results_dir=2026_11_28", "data_dir=/data/Übung=1 [alt]", "data_dir=null", "rank=8"])
    ["results_dir='2026_11_28'", "data_dir='/data/Übung=1 [alt]'", 'data_dir=null', 'rank=8']
    >>> spelled(["task.text=[2020, Übung (neu)]"])
    ["task.text=['2020','Übung (neu)']"]
    >>> spelled(["model.revision=4e56781,9e12345,'1,2'"], sweep=True)
    ["model.revision='4e56781','9e12345','1,2'"]
    """
    return [_spelled(argument, sweep=sweep) for argument in arguments]


def text_of(typed: str) -> str:
    """Return the text that a user means: without quotes around it, and with ``~`` as the home folder."""
    text = OverridesParser.create().parse_override(f"key={typed}").value() if re.fullmatch(QUOTED, typed) else typed
    return with_home(str(text))


def value_of(typed: str) -> Any:
    """Return the value that Hydra reads, or the text itself where it reads none."""
    return OverridesParser.create().parse_override(_spelled(f"value={typed}", sweep=False)).value()


def with_home(text: str) -> str:
    """Replace ``~`` at the start of a path with the home folder: behind an equals sign few shells do."""
    return str(Path(text).expanduser()) if text.startswith("~/") else text


def written(value: Any) -> str:
    """Write a value from JSON in Hydra's grammar, such that it composes to exactly this value.

    >>> print(written("a,b"), written([1, None, "it's"]), written("${seed}"))
    'a,b' [1,null,'it\\'s'] '\\${seed}'
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{','.join(map(written, value))}]"
        case dict():
            return "{" + ",".join(f"{written(str(key))}:{written(inner)}" for key, inner in value.items()) + "}"
        case str():
            return _quoted(without_interpolation(value))
        case _:
            return str(value)


def is_text(key: str) -> bool:
    """Return whether the setting with this dotted key is a text, or either a text or None."""
    declared = types_of(key)
    return bool(declared) and all(str in one and one <= {str, types.NoneType} for one in declared)


def is_texts(key: str) -> bool:
    """Return whether the setting with this dotted key is a list of texts, or either that or None."""
    declared = types_of(key)
    return bool(declared) and all(list[str] in one and one <= {list[str], types.NoneType} for one in declared)


@cache
def is_open(key: str) -> bool:
    """Return whether the dotted key is, or is inside, a setting that takes any keys."""
    root, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    classes = kinds(root) if root in GROUPS and name else ()
    return any(known.open for kind in classes for field, known in settings_of(kind) if field.name == name)


@cache
def types_of(key: str) -> tuple[frozenset[Any], ...]:
    """Return the declared types of a dotted key: a set of alternatives for each class that has the setting."""
    root, _, rest = key.partition(".")
    names = tuple(rest.split(".")) if rest else ()
    if root == "default" and names:  # default.method.targets gives a value to method.targets
        return types_of(rest)
    if root == "hydra":
        return tuple(_inside(HydraConf, names))
    if root in GROUPS and names:
        return tuple(found for kind in kinds(root) for found in _inside(kind, names))
    return tuple(found for kind in (Plain, Shorthand) for found in _inside(kind, (root, *names)))


def _inside(declared: Any, names: Sequence[str]) -> Iterator[frozenset[Any]]:
    """Yield the types of a setting inside another one; nothing if it is not declared."""
    found = alternatives(declared)
    if not names:
        yield found
        return
    for one in found:
        if is_dataclass(one) and isinstance(one, type) and names[0] in hints(one):
            yield from _inside(hints(one)[names[0]], names[1:])
        elif typing.get_origin(one) is dict:
            yield from _inside(typing.get_args(one)[1], names[1:])


def _spelled(argument: str, *, sweep: bool) -> str:
    _check_text(argument)
    name, equals, value = argument.partition("=")
    added = "+" if name in ADDED else "++" if name[:1] not in ("+", "~") and is_open(name) else ""
    spelling = (
        f"{added}{name}={_value(name.lstrip('+'), value, sweep=sweep)}" if equals and name[:1] != "~" else argument
    )
    if not _parses(spelling):
        raise UserError(f"{ascii(argument[:100])[1:-1]} cannot be read; write KEY=VALUE, for example rank=8")
    return spelling


def _value(name: str, value: str, *, sweep: bool) -> str:
    """Return the value of one override in Hydra's grammar."""
    key = name.partition("@")[0].strip()
    if not key:
        raise UserError(f"={printable(value)} has no key before its equals sign")
    is_choice = (key in (*GROUPS, *GROUPS_OF_SETTINGS) or "/" in key) and value[:1] != "["
    if is_texts(key) and LISTS.fullmatch(value):
        value = re.sub(TEXTS, _texts, value)
    if not is_text(key) and not is_choice:
        value = with_home(value)
        return value if _parses(f"key={value}") else _quoted(value)
    if sweep and SWEEP_FUNCTION.fullmatch(value.strip()):
        return value
    values = _separated(value) if sweep else [value]
    if len(values) > 1 and not all(values):
        raise UserError(f"{name}={value} has an empty value between its commas; put a text with a comma into quotes")
    if not is_choice and _is_closed(value) and not all(map(_is_closed, values)):
        raise UserError(
            f"{name}={value} has a comma inside brackets, and in a sweep commas separate values; put quotes around the "
            f"value, inside those for the shell: \"{name}='{value}'\""
        )
    optional = not is_choice and all(types.NoneType in one for one in types_of(key))
    return ",".join(_text(one, optional=optional) for one in values)


def _text(typed: str, *, optional: bool) -> str:
    """Return a text as typed in Hydra's grammar. An interpolation such as ``${output_dir}`` stays one."""
    if optional and typed == "null":
        return typed
    text = text_of(typed)
    keep = re.fullmatch(QUOTED, typed) or INTERPOLATION.search(text)  # what is in quotes is Hydra's grammar already
    return _quoted(text if keep else without_interpolation(text))


def _texts(found: re.Match[str]) -> str:
    """Return a list of texts as typed in Hydra's grammar. One with nothing between its commas stays as it is."""
    values = _separated(found[1])
    return f"[{','.join(_text(one, optional=False) for one in values)}]" if all(values) else found[0]


def _quoted(text: str) -> str:
    """Return a text in single quotes, unless Hydra reads it as a text without."""
    if BARE.fullmatch(text) and text.lower() not in WORDS:
        return text
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _separated(value: str) -> list[str]:
    """Split at commas, except inside a value that is in quotes."""
    return [found[0].strip() for found in re.finditer(rf"(?:\s*(?:{QUOTED})\s*(?=,|$))|[^,]+|(?<![^,])(?=,|$)", value)]


def _is_closed(value: str) -> bool:
    """Return whether a value closes the brackets that it opens, or is in quotes."""
    pairs = ("()", "[]", "{}")
    return bool(re.fullmatch(QUOTED, value)) or all(value.count(left) == value.count(right) for left, right in pairs)


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _check_text(argument: str) -> None:
    shown = argument.partition("=")[0][:100]
    if re.search("[\ud800-\udc7f]", argument):  # those after it stand for bytes that are not UTF-8
        raise UserError(f"the argument {printable(shown)} has half of a character; write the whole of it")
    if len(argument) > LONGEST:
        raise UserError(f"the argument {shown} has {len(argument)} characters; at most {LONGEST} are allowed")
    if sum(map(argument.count, "[{(")) > DEEPEST:
        raise UserError(f"the argument {shown} has too many brackets; at most {DEEPEST} may be opened")
    if re.search(rf"[0-9_]{{{MOST_DIGITS + 1},}}", argument):
        raise UserError(f"the argument {shown} has too many digits; at most {MOST_DIGITS} in a row are allowed")
