"""The declared types of a dataclass's fields, and values held against them."""

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from rosa_bench.system.errors import UserError


def alternatives(declared: Any) -> frozenset[Any]:
    """Return the types that a union allows; a type that is no union by itself."""
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return frozenset(typing.get_args(declared))
    return frozenset({declared})


@cache
def hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    found = typing.get_type_hints(kind)
    return {field.name: found[field.name] for field in fields(kind)}


def literal(declared: Any, value: Any, at: str) -> Any:
    """Return ``value`` for omegaconf, which must neither replace parts of its texts nor turn numbers into texts.

    Raises `UserError`, with the key ``at``, for a number where ``declared`` is a text: its spelling is lost.
    """
    kinds = alternatives(declared)
    if isinstance(value, str):
        return without_interpolation(value)
    if isinstance(value, bool | int | float) and str in kinds and not kinds & {bool, int, float, Any}:
        raise UserError(f"{at}={value} is not a text; put what you mean in quotes")
    if isinstance(value, list | tuple):
        inner = next((typing.get_args(one) for one in kinds if typing.get_origin(one) in (list, tuple)), ())
        of = inner[0] if inner else Any
        return [literal(of, one, f"{at}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, Mapping):
        known = next((hints(one) for one in kinds if is_dataclass(one) and isinstance(one, type)), {})
        of = next((typing.get_args(one)[1] for one in kinds if typing.get_origin(one) is dict), Any)
        return {key: literal(known.get(key, of), one, f"{at}.{key}".lstrip(".")) for key, one in value.items()}
    return value


def without_interpolation(text: str) -> str:
    """Escape ``${``, so that omegaconf reads it as these two characters."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
