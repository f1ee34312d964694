"""Typed view of the settings in a record, for everything that reads records.

A configuration may contain more, such as settings of one task or method, or of another version. They stay unchanged in
the record's ``config``. A record older than a setting gets the value that was used then.
"""

from typing import Annotated

import msgspec


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the task: its name and title, and the names of the splits that it uses.

    Only the synthetic regressions have ``true_rank``, ``inputs`` and ``outputs``.
    """

    name: str
    title: str
    train: str
    validation: str
    test: str | None = None
    score: str = ""
    true_rank: int | None = None
    inputs: int | None = None
    outputs: int | None = None


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the model. ``note`` tells readers of tables what is special about it."""

    name: str
    title: str
    note: str | None = None


class MethodSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the method. ``rank`` and the resampling period are None for methods without them."""

    name: str
    title: str
    rank: int | None = None
    resample_every: float | None = None
    resample_unit: str | None = None


class ProtocolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Name and title of the protocol."""

    name: str
    title: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run that tables, figures and commands read."""

    lr: Annotated[float, msgspec.Meta(gt=0)]
    seed: int
    epochs: int
    batch_size: int
    max_length: int | None
    limit_train: int | None
    limit_eval: int | None = None
    pad_to_max: bool = False
    task: TaskSettings
    model: ModelSettings
    method: MethodSettings
    protocol: ProtocolSettings
