"""The paper's tables, as printed (``results/published``)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.build import typed
from rosa_bench.report.cells.settings import Deviation, Variant, frozen
from rosa_bench.system.files import shipped


@dataclass(kw_only=True)
class PublishedRow:
    """One printed row. ``figures`` are strings, by the same keys as the table's columns, so that no digit is lost.

    title     the row's name without its rank
    settings  what makes the variant in our terms, where the method's name and rank do not
    """

    title: str
    method: str
    rank: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    trainable_millions: str | None = None
    figures: dict[str, str]

    @property
    def variant(self) -> Variant:
        """The row in the terms of our records."""
        changes = (Deviation(key, frozen(value), None) for key, value in sorted(self.settings.items()))
        return Variant(self.method, self.rank, tuple(changes), title=self.title)


@dataclass(kw_only=True)
class PublishedTable:
    """One printed table. ``columns``: our task's name (or another key) -> the column's printed heading."""

    source: str
    title: str
    model: str
    metric: str
    notes: list[str]
    columns: dict[str, str]
    rows: list[PublishedRow]


def published_folder() -> Path:
    """Where the printed tables are: inside an installed package, else at the top of the source tree."""
    return shipped("published", "results/published")


def load_published(name: str) -> PublishedTable:
    """A printed table by its file's name: ``table1`` to ``table5``. Raises `UserError` for a file that is none."""
    values = OmegaConf.load(published_folder() / f"{name}.yaml")
    return typed(PublishedTable, values, at=name)  # pyright: ignore[reportArgumentType]
