"""The kinds of value in a record, with their limits. A file with any other value is not a record.

The limits are far outside of what a run can produce. They keep sums, squares and dates of whatever a file says within
the range of a double, so that no reader has to check a value again.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from rosa_bench.system.text.names import NAME

LARGEST = 1e100  # a larger number is read as undefined, as Infinity is

Name = Annotated[str, msgspec.Meta(pattern=NAME)]
RunId = Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.+-]{0,249}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.+-]{0,279}\Z")]
Key = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z_][^\x00-\x1f\x7f]*\Z")]
Status = Literal["completed", "failed", "interrupted", "running"]
STATUSES: tuple[Status, ...] = get_args(Status)

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Duration = Annotated[float, msgspec.Meta(ge=0, le=1e12)]

if TYPE_CHECKING:  # a reader of such a value knows its type from its key
    Score = Any
    Json = Any
else:
    Score = Number | None  # None where the metric is not defined, or not a finite number
    # JSON of at most six levels: settings of any task, method or later version.
    Scalar = None | bool | Whole | Number | str
    Json1 = Scalar | list[Scalar] | dict[str, Scalar]
    Json2 = Scalar | list[Json1] | dict[str, Json1]
    Json3 = Scalar | list[Json2] | dict[str, Json2]
    Json4 = Scalar | list[Json3] | dict[str, Json3]
    Json5 = Scalar | list[Json4] | dict[str, Json4]
    Json = Scalar | list[Json5] | dict[str, Json5]
