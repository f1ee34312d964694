"""A run's prediction for each reported row, stored next to its record, to compare two runs row by row.

One line of JSON, with one list per column. Rows are in the order of the data, which is the same for every seed.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rosa_bench.records import strict_json
from rosa_bench.records.parts.types import Number, Positive, RunId, Whole
from rosa_bench.records.store import save_beside
from rosa_bench.system.errors import UserError

ENDING = ".predictions.jsonl"  # not .json, so that no version takes it for a record
DIGITS = 5  # significant digits of a predicted value
LABEL_DIGITS = 7  # of a label, which was a number in single precision
MOST_BYTES = 64 * 2**20

Fingerprint = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Values = Annotated[list[Whole | Number], Meta(min_length=1)]
Percent = Annotated[int, Meta(ge=0, le=100)]


class RowPredictions(msgspec.Struct, frozen=True, kw_only=True):
    """What the model of the selected epoch predicts for the reported rows.

    run          the run's id
    epoch        the selected epoch, counted from 1
    rows         fingerprint of the reported rows (`rosa_bench.data.rows.fingerprint`), to align two runs
    labels       the true class or value of each row
    predictions  the predicted class, or the predicted value to `DIGITS` significant digits
    percent      probability of the true class, in percent; unset for a regression

    Raises `ValueError` if the columns have different lengths.
    """

    run: RunId
    epoch: Positive
    rows: Fingerprint
    labels: Values
    predictions: Values
    percent: list[Percent] | UnsetType = UNSET

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.labels, self.predictions, self.percent) if column is not UNSET}
        if len(lengths) != 1:
            raise ValueError("has columns of different lengths")

    @classmethod
    def of_values(
        cls, predictions: Iterable[float], *, labels: Iterable[float], run: str, epoch: int, rows: str
    ) -> Self:
        """Return a regression's predictions, rounded."""
        return cls(
            run=run,
            epoch=epoch,
            rows=rows,
            labels=[float(f"{label:.{LABEL_DIGITS}g}") for label in labels],
            predictions=[float(f"{value:.{DIGITS}g}") for value in predictions],
        )


def path(record: Path) -> Path:
    """Return the path of a run's predictions, next to its record."""
    return record.with_name(f"{record.stem}{ENDING}")


def save(predictions: RowPredictions, record: Path, results_dir: Path) -> Path:
    """Write a run's predictions next to its ``record``. Earlier ones are kept as superseded."""
    text = json.dumps(msgspec.to_builtins(predictions), separators=(",", ":"), allow_nan=False) + "\n"
    return save_beside(text, record, results_dir, ending=ENDING)


def read(path: Path) -> RowPredictions:
    """Read a file of predictions. Unknown keys are ignored. Raises `UserError`, with the file, if it is not one."""
    try:
        return msgspec.convert(strict_json.loads(strict_json.read_bytes(path, MOST_BYTES)), RowPredictions)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # msgspec's errors are among them
        raise UserError(f"{path} is not a file of predictions: {error}") from error
