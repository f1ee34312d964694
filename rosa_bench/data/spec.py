"""Where a data set is, as a task's yaml declares it. Imports nothing heavy."""

from dataclasses import dataclass

from rosa_bench.data.generators import GENERATORS
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.setting import setting


@dataclass(kw_only=True)
class HubData:
    """A data set on the Hugging Face hub. ``name`` is the configuration of a data set that has several.

    files  glob of its parquet files, with ``{split}``, for a data set without a readable form of its own
    """

    path: str
    name: str | None = None
    revision: str | None = None
    files: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The rows of a data set, by split, and where they come from.

    train, validation  names of the splits
    rows       official number of rows by split, so that a partial copy is recognised
    synthetic  whether a program makes the rows; shown wherever their scores appear
    embedded   name of that program, one of `rosa_bench.data.generators.GENERATORS`
    folder     under ``data_dir``; ``hub`` is the other source
    """

    name: str
    train: str = "train"
    validation: str = "validation"
    rows: dict[str, int] = setting("official number of rows by split", default_factory=dict, identity=False)
    synthetic: bool = False
    embedded: str | None = None
    folder: str | None = setting("folder under data_dir", default=None, identity=False)
    hub: HubData | None = setting("data set on the hub", default=None, identity=False)

    def __post_init__(self) -> None:
        if self.hub is None and self.folder is None and self.embedded is None:
            raise UserError(f"task {self.name} must say where its rows are: hub, folder or embedded")
        if self.embedded is not None:
            one_of("task.embedded", self.embedded, GENERATORS)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a run reads."""
        return (self.train, self.validation)
