"""Only rows that are known are official, whatever their number and the name of their folder."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.official import are_official, is_subset
from rosa_bench.data.rows import DataInfo, Row, fingerprint
from rosa_bench.data.spec import HubData, Official
from rosa_bench.records.parts.conditions import Data
from rosa_bench.tasks.classification.rows import load_splits
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.generation.task import GenerationTask

TRAIN = [Row((f"train {number}",), number % 2) for number in range(9)]
DEV = [Row((f"dev {number}",), number % 2) for number in range(4)]
PART = TRAIN[2:7]
WHOLE = {"train": fingerprint(TRAIN), "validation": fingerprint(DEV)}


def task_of(official: Official | None, **changes: Any) -> TextTask:
    return TextTask(
        name="toy", title="Toy", text=["text"], labels=["no", "yes"], metric="accuracy", score="accuracy",
        folder="toy", rows={"train": 9, "validation": 4}, official=official, **changes,
    )  # fmt: skip


KNOWN = task_of(Official(sha256=WHOLE, subsets={"train": fingerprint(PART)}))
HUB = HubData(path="some/one", name="toy")
ON_HUB = task_of(Official(hub="some/one/toy", sha256=WHOLE), hub=HUB)
NO_TRAIN = task_of(Official(sha256={"validation": WHOLE["validation"]}))
OWN = [Row((f"own {number}",), number % 2) for number in range(9)]


def test_fingerprints_are_those_of_an_independent_hash() -> None:
    import hashlib

    lines = b"".join(json.dumps([list(row.texts), row.label]).encode() + b"\n" for row in TRAIN)
    assert WHOLE["train"] == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize(("train", "validation", "expected"), [
    (TRAIN, DEV, True),
    (PART, DEV, True),  # a known subset
    (OWN, DEV, False),  # the right number of other rows
    (TRAIN, OWN[:4], False),
    (TRAIN[::-1], DEV, False),
    (TRAIN[:-1], DEV, False),
    ([*TRAIN[:-1], Row(("train 8",), 1)], DEV, False),  # one label differs
    ([*TRAIN, *OWN], DEV, False),
    (DEV, TRAIN, False),
])  # fmt: skip
def test_files_are_official_if_every_split_is_known(train: list[Row], validation: list[Row], expected: bool) -> None:
    assert are_official(KNOWN, {"train": train, "validation": validation}, from_files=True) is expected


def test_rows_from_the_declared_hub_id_are_official_if_their_number_is_right() -> None:
    rows = {"train": OWN, "validation": OWN[:4]}
    assert are_official(ON_HUB, rows, from_files=False) is True
    assert are_official(ON_HUB, rows, from_files=True) is False  # the same rows from files
    assert are_official(ON_HUB, {**rows, "train": OWN[1:]}, from_files=False) is False


@pytest.mark.parametrize("hub", [HubData(path="another/one", name="toy"), HubData(path="some/one", name="another")])
def test_rows_from_another_hub_id_need_a_known_fingerprint(hub: HubData) -> None:
    task = task_of(Official(hub="some/one/toy", sha256=WHOLE), hub=hub)
    assert are_official(task, {"train": OWN, "validation": OWN[:4]}, from_files=False) is False
    assert are_official(task, {"train": TRAIN, "validation": DEV}, from_files=False) is True


def test_the_number_of_rows_in_a_file_proves_nothing() -> None:
    assert are_official(NO_TRAIN, {"train": OWN, "validation": DEV}, from_files=True) is False
    assert are_official(NO_TRAIN, {"train": OWN[:8], "validation": DEV}, from_files=True) is False
    assert are_official(NO_TRAIN, {"train": OWN, "validation": OWN[:4]}, from_files=True) is False


def test_a_task_that_declares_nothing_knows_nothing() -> None:
    assert are_official(task_of(None), {"train": OWN, "validation": DEV}, from_files=True) is None


def test_custom_rows_are_said_by_split(caplog: pytest.LogCaptureFixture) -> None:
    are_official(KNOWN, {"train": TRAIN, "validation": DEV}, from_files=True)
    assert not caplog.messages
    are_official(KNOWN, {"train": OWN, "validation": DEV}, from_files=True)
    [message] = caplog.messages
    assert message.startswith("task=toy: the train rows are not the published ones")


@pytest.mark.parametrize(("kept", "official", "expected"), [
    (9, True, False), (8, True, True), (9, None, False), (8, None, True), (3, False, True),
])  # fmt: skip
def test_a_limit_makes_a_subset(kept: int, official: bool | None, expected: bool) -> None:
    counts = {"train": 9, "validation": 4}
    assert is_subset(KNOWN, counts, {**counts, "train": kept}, official) is expected


def test_custom_rows_are_no_subset_of_the_official_ones() -> None:
    counts = {"train": 3, "validation": 2}
    assert is_subset(KNOWN, counts, counts, official=False) is False
    assert is_subset(KNOWN, counts, counts, official=True) is True


def test_more_rows_than_declared_are_no_subset() -> None:
    counts = {"train": 12, "validation": 4}
    assert is_subset(KNOWN, counts, counts, official=True) is False


def write(folder: Path, rows: dict[str, list[Row]]) -> Path:
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    for split, some in rows.items():
        lines = [json.dumps({"text": row.texts[0], "label": row.label}) + "\n" for row in some]
        (folder / f"toy/{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(("train", "expected"), [(TRAIN, True), (OWN, False)])
def test_the_record_says_whether_all_rows_were_known_before_any_limit(
    tmp_path: Path, train: list[Row], expected: bool, limit: int | None
) -> None:
    folder = write(tmp_path, {"train": train, "validation": DEV})
    info = load_splits(KNOWN, folder, limit_train=limit).info
    assert info.official is expected
    assert info.subset is (limit is not None)


def test_every_fact_of_the_data_has_a_place_in_the_record() -> None:
    while_preparing = {"available"}  # so that a choice can plan how many rows to use
    assert set(DataInfo.__dataclass_fields__) - while_preparing <= set(Data.__struct_fields__)


# What the yaml files declare

TASKS = sorted(path.stem for path in (conf_folder() / "task").glob("*.yaml"))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_on_the_hub_declares_its_official_rows(compose: Callable[..., RunConfig], name: str) -> None:
    model = ["model=gpt2"] if name in ("e2e_nlg", "restaurants") else []
    task = compose(f"task={name}", *(["model=mlp1"] if name == "synthetic" else model)).task
    if task.hub is None:
        assert task.embedded or task.folder  # generated here, or the user's own
        return
    assert isinstance(task, TextTask | GenerationTask)
    assert task.official is not None
    assert task.official.hub == "/".join(filter(None, (task.hub.path, task.hub.name)))
    known = {**task.official.sha256, **task.official.subsets}
    assert set(known) == set(task.splits) == set(task.rows)
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in known.values())
    assert not set(task.official.sha256) & set(task.official.subsets)
    assert len(set(known.values())) == len(known)


@pytest.mark.parametrize("name", ["grammar", "restaurants"])
def test_generated_rows_are_official(compose: Callable[..., RunConfig], name: str) -> None:
    assert (
        are_official(
            compose(f"task={name}", "model=gpt2" if name == "restaurants" else "model=tiny_bert").task,
            {},
            from_files=False,
        )
        is True
    )


def test_own_sentences_given_as_cola_are_custom_rows(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    for split, count in (("train", 800), ("validation", 1043)):
        rows = [json.dumps({"sentence": f"{split} {number}", "label": number % 2}) for number in range(count)]
        (tmp_path / "glue" / "cola" / f"{split}.jsonl").write_text("\n".join(rows))
    task = compose("task=cola").task
    assert isinstance(task, TextTask)
    info = load_splits(task, tmp_path).info
    assert info.official is False
    assert info.subset is False
