"""The paper's tables as printed (``results/published``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rosa_bench.config.build import typed
from rosa_bench.config.files.reading import read_yaml
from rosa_bench.config.identity.defaults import Default, defaults_of
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.settings import Deviation, Variant, frozen
from rosa_bench.system.files.places import shipped


@dataclass(kw_only=True)
class PublishedRow:
    """One printed row. ``figures`` has the same keys as the table's columns, and string values, to keep every digit.

    title     the row's name without its rank
    settings  settings that define the variant beyond its method and rank, and that its title implies
    implied   the paper's usual settings, which the title omits, and which are not the defaults of every protocol
    """

    title: str
    method: str
    rank: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    implied: dict[str, Any] = field(default_factory=dict)
    trainable_millions: str | None = None
    figures: dict[str, str]

    def variant(self, defaults: Mapping[str, Default] | None) -> Variant:
        """Return the variant in our records that this row corresponds to, beside runs with these ``defaults``."""
        known = defaults or {}
        wanted = {**(self.implied if known else {}), **self.settings}
        changes = (
            Deviation(key, frozen(value), frozen(known[key].value) if key in known else None)
            for key, value in sorted(wanted.items())
            if key not in known or known[key].value != value
        )
        return Variant(self.method, self.rank, tuple(changes), title=self.title)


@dataclass(kw_only=True)
class PublishedTable:
    """One printed table. ``columns`` maps our task's name (or another key) to the printed heading."""

    source: str
    title: str
    model: str
    metric: str
    notes: list[str]
    columns: dict[str, str]
    rows: list[PublishedRow]

    def variants(self, group: Group) -> list[Variant]:
        """Return the variant in a group of our runs that each row corresponds to.

        A row is what the paper ran, whatever our protocol's default: under ``fair`` the paper's ROSA is one with
        ``resample_every`` changed.
        """
        task = next((task for task in self.columns if task in group.tasks), next(iter(group.tasks)))
        setting = group.setting
        return [row.variant(defaults_of(task, setting.model, row.method, setting.protocol)) for row in self.rows]


def published_folder() -> Path:
    """Return the folder of the printed tables, in the installed package or else in the source tree."""
    return shipped("published", "results/published")


def load_published(name: str) -> PublishedTable:
    """Load a printed table by file name: ``table1`` to ``table5``. Raises `UserError` if the file is not a table."""
    return _loaded(published_folder() / f"{name}.yaml")


@cache
def _loaded(path: Path) -> PublishedTable:
    return typed(PublishedTable, read_yaml(path), at=path.stem)
