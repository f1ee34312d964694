"""Resolve what a composed configuration refers to, such as ``${rank}``, with omegaconf's results in less time.

Omegaconf reads each reference with a parser and copies the nodes around it, which takes milliseconds per run. A large
sweep has many thousands of references, of a few simple kinds, which are read here from plain values. A configuration
with anything else, and every mistake, is left to omegaconf.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.system.errors import UserError, user_error_in

# The whole value is ${key}, ${default_for:key}, or ${oc.select:key,null}, where null stands for a key that is missing.
REFERENCE = re.compile(r"\$\{(default_for:|oc\.select:)?(\w+(?:\.\w+)*)(,null)?\}")
BELOW = re.compile(r"(\$\{\w+(?:\.\w+)*\})(/[\w./-]+)")  # a path below a folder: ${output_dir}/tensorboard
MISSING = "???"
DEEPEST = 20  # references to references


class UnresolvedError(Exception):
    """Something that only omegaconf resolves, or reports."""


def resolved(raw: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a composed configuration with all references replaced.

    Raises `UserError`, which names the key, for a value that is missing or cannot be resolved.
    """
    plain: Any = OmegaConf.to_container(raw, resolve=False) if isinstance(raw, DictConfig) else raw
    try:
        return _Plain(plain).resolve(plain)
    except UnresolvedError:
        return _by_omegaconf(raw)


def _by_omegaconf(raw: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    try:
        raw = raw if isinstance(raw, DictConfig) else OmegaConf.create(dict(raw))
        return OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)  # pyrefly: ignore[bad-return]
    except OmegaConfBaseException as error:
        if (mistake := user_error_in(error)) is not None:  # raised by one of our resolvers
            raise mistake from None
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from error


class _Plain:
    """Resolves the values below one root. Raises `UnresolvedError` for anything unusual."""

    def __init__(self, root: Mapping[str, Any]):
        self.root = root

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Return a value in which nothing refers to anything, sharing no container with the root."""
        if isinstance(value, str):
            return self._text(value, depth)
        if isinstance(value, dict):
            return {key: self.resolve(inner, depth) for key, inner in value.items()}
        return [self.resolve(inner, depth) for inner in value] if isinstance(value, list) else value

    def _text(self, text: str, depth: int) -> Any:
        if text == MISSING:
            raise UnresolvedError
        if "${" not in text:
            return text
        if (below := BELOW.fullmatch(text)) and isinstance(folder := self._text(below[1], depth), str):
            return folder + below[2]
        found = REFERENCE.fullmatch(text)
        if found is None or depth == DEEPEST or (found[1] == "oc.select:") != bool(found[3]):
            raise UnresolvedError
        if found[1] == "default_for:":
            return self._default_for(found[2], depth + 1)
        return self._at(found[2], depth + 1, required=found[1] is None)

    def _at(self, key: str, depth: int, *, required: bool) -> Any:
        """Return the resolved value at a dotted key; None if it is missing and not ``required``."""
        place: Any = self.root
        for name in key.split("."):
            if not isinstance(place, dict):
                raise UnresolvedError  # it lies inside a list or behind a reference
            if name not in place:
                if required:
                    raise UnresolvedError
                return None
            place = place[name]
        return self.resolve(place, depth)

    def _default_for(self, key: str, depth: int) -> Any:
        for found in entries_for(key, lambda at: self._at(at, depth, required=False)):
            return found
        raise UnresolvedError


def entries_for(key: str, select: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the defaults of a setting of a group, such as ``method.lr``; the first is the one that counts.

    They come from the setting ``default``, and then from ``default_lr`` in the group's yaml: by protocol, by recipe,
    and under ``otherwise``. An entry may be such a table itself: ``{fair: {synthetic: 20, otherwise: 0}, glue: 2}``.
    ``select`` returns the value at a dotted key, or None.
    """
    if (given := select(f"default.{key}")) is not None:
        yield given
    group, _, name = key.partition(".")
    table = select(f"{group}.default_{name}")
    if isinstance(table, Mapping):
        yield from _entries(table, (select("protocol.name"), select("recipe"), "otherwise"))


def _entries(table: Mapping[Any, Any], wanted: Sequence[Any]) -> Iterator[Any]:
    """Yield the entries that ``wanted`` leads to, in its order; those of tables inside too."""
    for name in wanted:
        if name in table:
            yield from _entries(table[name], wanted) if isinstance(table[name], Mapping) else [table[name]]
