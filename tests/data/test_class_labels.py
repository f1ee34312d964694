"""The class names that a parquet file declares are compared with the task's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.class_labels import check_order, declared_classes
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.rows import load_rows
from rosa_bench.tasks.classification.task import TextTask

ROWS = {"sentence": ["a", "b"], "label": [0, 1]}


def write(folder: Path, names: list[str] | None) -> Path:
    path = folder / "glue" / "cola" / "train.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)} if names else None
    made = datasets.Dataset.from_dict(ROWS, features=datasets.Features(features) if features else None)
    made.to_parquet(path)
    return path


def test_names_are_read_as_datasets_writes_them(tmp_path: Path) -> None:
    assert declared_classes([write(tmp_path, ["no", "yes"])]) == {"label": ["no", "yes"]}
    assert declared_classes([write(tmp_path, None)]) == {}


@pytest.mark.parametrize(
    "metadata",
    [
        None, b"", b"{", b"[]", b"\xff", b'{"info": 3}', b'{"info": {"features": {"label": 3}}}', b"[" * 100_000,
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 5}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [0, 1]}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
    ],
)  # fmt: skip
def test_other_metadata_declares_nothing(tmp_path: Path, metadata: bytes | None) -> None:
    table = pyarrow.Table.from_pydict(ROWS).replace_schema_metadata(
        None if metadata is None else {"huggingface": metadata}
    )
    pyarrow.parquet.write_table(table, path := tmp_path / "a.parquet")
    assert declared_classes([path]) == {}


def test_a_column_of_lists_hides_no_class_names(tmp_path: Path) -> None:
    """Older versions of `datasets` write the type of a list as a list."""
    features = {"sentence": [{"dtype": "string"}], "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.Table.from_pydict(ROWS).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path := tmp_path / "a.parquet")
    assert declared_classes([path]) == {"label": ["no", "yes"]}


@pytest.mark.parametrize(("declared", "allowed"), [
    (["unacceptable", "acceptable"], True),
    (["Unacceptable", "ACCEPTABLE"], True),
    (["acceptable", "unacceptable"], False),
    (["Acceptable", "Unacceptable"], False),
    (["LABEL_0", "LABEL_1"], True),  # says nothing
    (None, True),
])  # fmt: skip
def test_the_same_names_in_another_order_are_refused(
    compose: Callable[..., RunConfig], tmp_path: Path, declared: list[str] | None, allowed: bool
) -> None:
    task: Any = compose("task=cola").task
    assert isinstance(task, TextTask)
    path = write(tmp_path, declared)
    if allowed:
        assert [row.label for row in load_rows(task, "train", tmp_path)] == [0, 1]
        return
    with pytest.raises(UserError, match=rf"{path} numbers its classes .*, and the task unacceptable, acceptable"):
        load_rows(task, "train", tmp_path)


@pytest.mark.parametrize(("task", "there"), [("boolq", ["False", "True"]), ("wic", ["False", "True"])])
def test_names_of_the_hub_that_are_not_the_tasks_are_compared_too(
    compose: Callable[..., RunConfig], task: str, there: list[str]
) -> None:
    hub = compose(f"task={task}").task.hub
    assert hub is not None
    check_order(there, hub.labels, where="data")
    with pytest.raises(UserError, match="data numbers its classes True, False"):
        check_order(there[::-1], hub.labels, where="data")
    assert json.dumps(hub.labels) == json.dumps(there)
