"""Typed view of the settings in a record, for everything that reads records.

A configuration may contain more, such as settings of one task or method, or of another version. They stay unchanged in
the record's ``config``. A record older than a setting gets the value that was used then.
"""

from typing import Annotated, Literal

import msgspec

from rosa_bench.records.parts.types import Count, Name, Positive, Whole


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the task: its name and title, and the names of the splits that it uses.

    Only the synthetic regressions have ``true_rank``, ``inputs`` and ``outputs``.
    """

    name: Name
    title: str
    train: str
    validation: str
    test: str | None = None
    score: str = ""
    true_rank: Count | None = None
    inputs: Count | None = None
    outputs: Count | None = None


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the model. ``note`` tells readers of tables what is special about it."""

    name: Name
    title: str
    note: Annotated[str, msgspec.Meta(max_length=2000)] | None = None


class MethodSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the method. ``rank`` and the resampling period are None for methods without them."""

    name: Name
    title: str
    rank: Count | None = None
    resample_every: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    resample_unit: Literal["epochs", "steps", "run"] | None = None


class ProtocolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Name and title of the protocol."""

    name: Name
    title: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run that tables, figures and commands read."""

    lr: Annotated[float, msgspec.Meta(gt=0, le=1e100)]
    seed: Whole
    epochs: Positive
    batch_size: Positive
    max_length: Count | None
    limit_train: Count | None
    limit_eval: Count | None = None
    pad_to_max: bool = False
    task: TaskSettings
    model: ModelSettings
    method: MethodSettings
    protocol: ProtocolSettings
