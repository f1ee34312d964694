"""The declared types of a dataclass's fields, and the comparison of values with them."""

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
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

    Raises `UserError`, with the key ``at``, for a number where ``declared`` is a text, as its spelling is lost, and for
    a list or mapping where a list of texts has one of them.
    """
    kinds = alternatives(declared)
    if isinstance(value, str):
        return without_interpolation(value)
    if isinstance(value, bool | int | float) and str in kinds and not kinds & {bool, int, float, Any}:
        raise UserError(f"{at}={value} is not a text; put what you mean in quotes")
    if isinstance(value, list | tuple | Mapping) and at.endswith("]") and kinds <= {str, types.NoneType}:
        what = "a mapping" if isinstance(value, Mapping) else "a list"
        raise UserError(f"{at} is {what}, not a text; leave out its brackets, as in '{at.partition('[')[0]}=[body]'")
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


class UnfittingError(Exception):
    """A value that is not plainly of the declared type: omegaconf has to convert, merge or refuse it."""


def fitting(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the dataclass ``kind``, from values that already have its types, and from its defaults.

    The result is omegaconf's, in a hundredth of its time. Raises `UnfittingError` for anything that needs omegaconf.
    """
    known = fields(kind)
    if not values.keys() <= {field.name for field in known}:
        raise UnfittingError
    return {field.name: _fitting_field(field, hints(kind)[field.name], values) for field in known}


def _fitting_field(field: Field, declared: Any, values: Mapping[str, Any]) -> Any:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    given = values.get(field.name, default)
    merged = isinstance(default, dict) and default and given is not default
    if is_dataclass(default) and isinstance(given, dict):
        merged = given.keys() != {inner.name for inner in fields(default)}
    if given is MISSING or merged or not field.init:
        raise UnfittingError
    return _fitting(declared, given)


def _fitting(declared: Any, value: Any) -> Any:
    """Return a value of JSON's types as ``declared``: a whole number can be a float; containers are copied.

    A tuple becomes a list, as omegaconf has it.
    """
    kinds = alternatives(declared)
    if isinstance(value, list):
        of = _inner(kinds, list, tuple)
        if len({*of} - {...}) > 1:
            raise UnfittingError
        return [_fitting(of[0], one) for one in value]
    if isinstance(value, dict):
        if (inner := _dataclass(kinds)) is not None:
            return inner(**fitting(inner, value))
        key, of = _inner(kinds, dict)
        return {_fitting(key, name): _fitting(of, one) for name, one in value.items()}
    kind = type(value)
    if (kind in kinds or Any in kinds) and kind in (bool, int, float, str, types.NoneType) and value != "???":
        return value
    if isinstance(value, int) and kind is int and float in kinds and abs(value) < 2**53:
        return float(value)
    raise UnfittingError


def _dataclass(kinds: frozenset[Any]) -> type | None:
    """Return the only type besides None, if that is a dataclass."""
    match [one for one in kinds if one is not types.NoneType]:
        case [one] if isinstance(one, type) and is_dataclass(one):
            return one
    return None


def _inner(kinds: frozenset[Any], *containers: type) -> tuple[Any, ...]:
    """Return the types inside a container."""
    if Any in kinds:
        return (str, Any) if dict in containers else (Any,)
    for one in kinds:
        if typing.get_origin(one) in containers:
            return typing.get_args(one)
    raise UnfittingError
