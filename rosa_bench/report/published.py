"""The paper's tables as printed (``results/published``)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.build import typed
from rosa_bench.report.cells.settings import Deviation, Variant, frozen
from rosa_bench.system.files import shipped


@dataclass(kw_only=True)
class PublishedRow:
    """One printed row. ``figures`` has the same keys as the table's columns, and string values, to keep every digit.

    title     the row's name without its rank
    settings  settings that define the variant beyond its method and rank
    """

    title: str
    method: str
    rank: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    trainable_millions: str | None = None
    figures: dict[str, str]

    @property
    def variant(self) -> Variant:
        """The variant in our records that this row corresponds to."""
        changes = (Deviation(key, frozen(value), None) for key, value in sorted(self.settings.items()))
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


def published_folder() -> Path:
    """Return the folder of the printed tables, in the installed package or else in the source tree."""
    return shipped("published", "results/published")


def load_published(name: str) -> PublishedTable:
    """Load a printed table by file name: ``table1`` to ``table5``. Raises `UserError` if the file is not a table."""
    values = OmegaConf.load(published_folder() / f"{name}.yaml")
    return typed(PublishedTable, values, at=name)  # pyright: ignore[reportArgumentType]
