"""The parts of a record that say what a run was made with: data, device, code and size."""

import msgspec
from msgspec import UNSET, UnsetType, field

from rosa_bench.records.parts.types import Count, Json, Name, Positive, Score


class Rows(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Number of rows in each split that the run used."""

    train: Count
    held_out: Count
    validation: Count
    test: Count | None = None

    @property
    def by_split(self) -> dict[str, int]:
        """Numbers of rows by split, for the splits that the task has."""
        return msgspec.to_builtins(self)

    @property
    def reported(self) -> int:
        """Rows that the reported score is of: the test rows, or else the validation rows."""
        return self.test or self.validation

    @property
    def total(self) -> int:
        """Rows of all splits together."""
        return sum(self.by_split.values())


class BestOfRank(msgspec.Struct, kw_only=True):
    """Lowest loss that any update of each rank reaches: one list per replicate, with an entry per rank from 0 on."""

    train: list[list[Score]]
    validation: list[list[Score]]


class Data(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The data of one run.

    official_rows  rows of each split as published, to show whether this is a subset
    official       whether the rows are the published ones or a known subset. None if the task declares none, and in
                   records older than the check
    fingerprint    hash of the rows that the run used, in order
    commit         commit of the rows on the hub; None for other sources and in older records
    prompts        of a generation task: distinct prompts per split
    best_of_rank   of a synthetic regression: closed-form bounds
    facts          other facts that the task reports about its data
    """

    source: str
    synthetic: bool
    rows: Rows
    official_rows: dict[str, Count]
    subset: bool
    fingerprint: str
    official: bool | None = None
    commit: str | None = None
    prompts: dict[str, Count] | None = None
    best_of_rank: BestOfRank | None = None
    facts: dict[str, Json] = field(default_factory=dict)


class Device(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The device that made the run.

    threads    number of CPU threads on a CPU, else None
    shared_by  rosa_bench processes that used the GPU, this run's included: the largest count of the run's start and the
               ends of its epochs. More than 1 makes times longer; peak memory is this process's own. None on a CPU and
               in older records
    processes  how many processes made the run together, each on such a device, if ``parallel`` lets them. Times and
               peak memory are the first one's. Unset with ``parallel=none``
    """

    type: Name
    name: str
    threads: Count | None = None
    shared_by: Positive | None = None
    precision: str
    processes: Positive | UnsetType = UNSET


class Git(msgspec.Struct, kw_only=True):
    """Commit of this package, and whether it was modified. Both are None outside a checkout."""

    commit: str | None = None
    dirty: bool | None = None


class Parameters(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Number of parameters in total, and of those that train.

    saved_bytes  size of all tensors that training can change: what must be stored beside the base model. None in older
                 records
    """

    total: Count | None = None
    trainable: Count | None = None
    saved_bytes: Count | None = None
