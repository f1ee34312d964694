import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.data.rows import Row, fingerprint, read_table
from rosa_bench.data.source import ENDINGS, describe_source, find_file
from rosa_bench.data.spec import HubData
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.rows import load_rows, load_splits
from rosa_bench.tasks.classification.task import Mark, TextTask

Rows = list[dict[str, Any]]


def text_task(config: RunConfig) -> TextTask:
    assert isinstance(config.task, TextTask)
    return config.task


def task_of(**changes: Any) -> TextTask:
    """A two-class task with one text, in the folder `toy`."""
    settings: dict[str, Any] = {
        "name": "toy", "title": "Toy", "text": ["text"], "labels": ["no", "yes"], "metric": "accuracy",
        "score": "accuracy", "folder": "toy",
    }  # fmt: skip
    return TextTask(**{**settings, **changes})


TOY = task_of()
PAIR = task_of(text=["first", "second"])
VALUE = task_of(labels=[], interval=[0.0, 5.0])
MARKED = task_of(text=["text"], marks={"text": Mark(start="start", end="end")})


def table(rows: Rows, *, delimiter: str, quoting: int) -> bytes:
    text = io.StringIO()
    options = {"quotechar": None, "escapechar": None} if quoting == csv.QUOTE_NONE else {}
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n", **options)  # pyrefly: ignore[bad-argument-type]
    writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": jsonl,
    ".jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    ".parquet": parquet,
    ".tsv": lambda rows: table(rows, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".csv": lambda rows: table(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL),
}


def write(
    folder: Path, rows: Rows, ending: str = ".jsonl", *, splits: tuple[str, ...] = ("train", "validation")
) -> Path:
    """A data folder with these rows in each of ``splits``."""
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / "toy" / f"{split}{ending}").write_bytes(WRITERS[ending](rows))
    return folder


def numbered(count: int) -> Rows:
    return [{"text": f"row {number}", "label": number % 2} for number in range(count)]


# Reading


def test_all_file_formats_are_tested() -> None:
    assert set(WRITERS) == set(ENDINGS)


# Everything that tab-separated values can hold: no tabs or line ends.
TEXTS = [
    "plain",
    "  spaces about  ",
    'a "quoted" word',
    '"',
    "it's",
    "é — 漢字 😀",
    "\u00a0\u2028\u0085",
    "a, b; c",
    "#",
    "\\n",
    "007 x",
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("task", [TOY, PAIR, VALUE], ids=["one text", "pair", "regression"])
def test_every_format_round_trips(tmp_path: Path, ending: str, task: TextTask) -> None:
    columns = task.text
    labels = (
        [1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1] if task.labels else [0.0, 5.0, 2.5, 3.25, 0.1, 4.999, 1.0, 3.0, 2.0, 0.3, 5.0]
    )
    rows = [{**dict.fromkeys(columns, text), "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    expected = [Row((text,) * len(columns), label) for text, label in zip(TEXTS, labels, strict=True)]
    found = load_rows(task, "train", write(tmp_path, rows, ending))
    assert found == expected
    assert [type(row.label) for row in found] == [int if task.labels else float] * len(TEXTS)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet", ".csv"])
def test_line_ends_inside_a_text_are_kept(tmp_path: Path, ending: str) -> None:
    texts = ["two\nlines", "a tab\tinside", "\n", "end\n"]
    rows = [{"text": text, "label": 1} for text in texts]
    assert [row.texts[0] for row in load_rows(TOY, "train", write(tmp_path, rows, ending))] == texts


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_lines_round_trip_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = write(tmp_path_factory.mktemp("data"), [{"text": text, "label": 0} for text in texts])
    assert [row.texts[0] for row in load_rows(TOY, "train", folder)] == texts


# Texts that table readers by default take for a missing value, a number or a date.
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "texts",
    [
        *(["NA", "x"], ["null", "None"], ["nan", "n/a"], ["", "x"], ["12", "007"], ["True", "false"]),
        ["2020-01-02", "2021-02-03"],
    ],
    ids=",".join,
)
def test_texts_are_never_converted(tmp_path: Path, ending: str, texts: list[str]) -> None:
    folder = write(tmp_path, [{"text": text, "label": 1} for text in texts], ending)
    assert [row.texts[0] for row in load_rows(TOY, "train", folder)] == texts


@pytest.mark.parametrize("ending", ENDINGS)
def test_row_order_is_kept(tmp_path: Path, ending: str) -> None:
    found = load_rows(TOY, "train", write(tmp_path, numbered(300), ending))
    assert [row.texts[0] for row in found] == [f"row {number}" for number in range(300)]


def test_extra_columns_and_column_order_do_not_matter(tmp_path: Path) -> None:
    write(tmp_path, [{"idx": 7, "label": 1, "extra": "x", "text": "a"}])
    assert load_rows(TOY, "train", tmp_path) == [Row(("a",), 1)]


def test_labels_may_be_booleans(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a", "label": True}, {"text": "b", "label": False}])
    assert load_rows(TOY, "train", tmp_path) == [Row(("a",), 1), Row(("b",), 0)]


def test_the_embedded_task_needs_no_folder(compose: Callable[..., RunConfig]) -> None:
    rows = load_rows(text_task(compose("task=grammar")), "validation", None)
    assert len(rows) == 1000
    assert {row.label for row in rows} == {0, 1}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    # Unpacked archives keep modification times, so a replaced file can have the same time.
    for text in ("before", "after"):
        write(tmp_path, [{"text": text, "label": 0}])
        for split in ("train", "validation"):
            os.utime(tmp_path / f"toy/{split}.jsonl", (1e9, 1e9))
        assert load_rows(TOY, "train", tmp_path) == [Row((text,), 0)]


# Marked words


@pytest.mark.parametrize(("text", "start", "end", "expected"), [
    ("the bank is closed", 4, 8, "the * bank * is closed"),
    ("bank", 0, 4, "* bank *"),
    ("a bank", 2, 6, "a * bank *"),
    ("漢字 😀 x", 3, 4, "漢字 * 😀 * x"),
])  # fmt: skip
def test_a_marked_word_is_enclosed_in_markers(tmp_path: Path, text: str, start: int, end: int, expected: str) -> None:
    write(tmp_path, [{"text": text, "start": start, "end": end, "label": 1}])
    assert load_rows(MARKED, "train", tmp_path) == [Row((expected,), 1)]
    signed = task_of(marks={"text": Mark(start="start", end="end")}, marker="@")
    assert load_rows(signed, "train", tmp_path) == [Row((expected.replace("*", "@"),), 1)]


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (4, 2), (0, 6), (6, 7), (None, 2), (2, None)])
def test_a_span_outside_its_text_is_an_error(tmp_path: Path, span: tuple[Any, Any]) -> None:
    good = {"text": "abcde", "start": 0, "end": 5, "label": 1}
    write(tmp_path, [good, {**good, "start": span[0], "end": span[1]}])
    with pytest.raises(UserError, match=r"row 2: start=.*, end=.* not a span of text, which has 5 characters"):
        load_rows(MARKED, "train", tmp_path)


def test_wic_marks_both_sentences(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    row = {"sentence1": "a bed", "sentence2": "the bed", "start1": 2, "end1": 5, "start2": 4, "end2": 7, "label": 0}
    folder = tmp_path / "super_glue/wic"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(jsonl([row]))
    assert load_rows(text_task(compose("task=wic")), "train", tmp_path) == [Row(("a * bed *", "the * bed *"), 0)]


# Checks


@pytest.mark.parametrize(("labels", "row"), [
    ([0, 2], 2), ([1, -1], 2), ([0, 10**12], 2), ([1.0, 0.5], 2), ([0, None], 2), (["yes", "no"], 1), (["1", "0"], 1),
    ([0.0, float("nan")], 2), ([0.0, float("inf")], 2), ([0.0, float("-inf")], 2),
])  # fmt: skip
def test_an_invalid_class_error_names_the_row(tmp_path: Path, labels: list[Any], row: int) -> None:
    write(tmp_path, [{"text": "a", "label": label} for label in labels])
    path, classes = re.escape(f"{tmp_path}/toy/train.jsonl"), re.escape("0 to 1 in ['no', 'yes']")
    with pytest.raises(UserError, match=rf"{path}, row {row}: label .* is not the number of a class, {classes}$"):
        load_rows(TOY, "train", tmp_path)


@pytest.mark.parametrize("label", [-0.01, 5.01, None, float("nan"), float("inf"), True, "1"])
def test_an_out_of_range_value_error_names_the_row(tmp_path: Path, label: float | str | None) -> None:
    write(tmp_path, [{"text": "a", "label": 5.0}, {"text": "b", "label": label}])
    with pytest.raises(UserError, match=r"train\.jsonl, row 2: label .* is not between 0 and 5"):
        load_rows(VALUE, "train", tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_column_error_lists_the_columns(tmp_path: Path, ending: str) -> None:
    write(tmp_path, [{"words": "a", "label": 1}], ending)
    with pytest.raises(UserError, match=rf"train{re.escape(ending)}: no column text; the columns are words, label"):
        load_rows(TOY, "train", tmp_path)


def test_missing_file_error_lists_the_names_tried(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        find_file(TOY, "train", tmp_path / "nowhere")
    write(tmp_path, numbered(1), splits=("train",))
    assert find_file(TOY, "train", tmp_path) == tmp_path / "toy/train.jsonl"
    with pytest.raises(UserError) as raised:
        find_file(TOY, "validation", tmp_path)
    message = str(raised.value)
    for word in ("task=toy", str(tmp_path / "toy"), *(f"validation{ending}" for ending in ENDINGS)):
        assert word in message


@pytest.mark.parametrize("more", [ending for ending in ENDINGS if ending != ".tsv"])
def test_two_files_for_one_split_are_refused(tmp_path: Path, more: str) -> None:
    write(tmp_path, numbered(3), ".tsv")
    write(tmp_path, numbered(3), more, splits=("train",))
    for look in (lambda: find_file(TOY, "train", tmp_path), lambda: describe_source(TOY, tmp_path)):
        with pytest.raises(
            UserError, match=rf"{tmp_path}/toy has several files of the train rows, .*; keep one"
        ) as raised:
            look()
        assert "train.tsv" in str(raised.value)
        assert f"train{more}" in str(raised.value)
    assert find_file(TOY, "validation", tmp_path).name == "validation.tsv"


@pytest.mark.parametrize("value", ["9" * 400, '"' + "x" * 10**6 + '"', "[" + "1, " * 10**5 + "1]"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_a_huge_value_makes_a_short_error(tmp_path: Path, column: str, value: str) -> None:
    other = "label" if column == "text" else "text"
    if column == "text" and value.startswith('"'):
        return  # a long text is a text
    folder = write(tmp_path, numbered(1))
    (folder / "toy/train.jsonl").write_text(
        f'{{"{column}": {value}, "{other}": 1}}\n'.replace('"text": 1', '"text": "a"')
    )
    with pytest.raises(UserError, match=r"train\.jsonl, row 1: ") as raised:
        load_rows(TOY, "train", tmp_path)
    assert len(str(raised.value)) < len(str(tmp_path)) + 200


def test_odd_column_names_are_listed_on_one_short_line(tmp_path: Path) -> None:
    write(tmp_path, [{f"a\n\x1b[31m{number}": "b" * 300 for number in range(1000)}])
    with pytest.raises(UserError, match="no column text, label; the columns are ") as raised:
        load_rows(TOY, "train", tmp_path)
    message = str(raised.value)
    assert "\n" not in message and "\x1b" not in message
    assert message.endswith("and 980 more")


@pytest.mark.parametrize("start", [True, 0.0, "0"])
def test_a_span_is_whole_numbers(tmp_path: Path, start: Any) -> None:
    write(tmp_path, [{"text": "abcde", "start": start, "end": 5, "label": 1}])
    with pytest.raises(UserError, match=r"row 1: start=.*, end=5 is not a span of text"):
        load_rows(MARKED, "train", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    write(tmp_path, numbered(3))
    (tmp_path / "toy/train.jsonl").chmod(0)
    with pytest.raises(UserError, match=r"train\.jsonl cannot be read: Permission denied"):
        describe_source(TOY, tmp_path)


DAMAGED = {
    ".jsonl": {
        "half a row": b'{"text": "a", "label": 1}\n{"text": "b"',
        "empty": b"",
        "not utf-8": b'{"text": "\xff", "label": 1}\n',
    },
    ".jsonl.gz": {"not gzip": b"not gzip", "cut": gzip.compress(jsonl(numbered(50)))[:-20]},
    ".parquet": {"not parquet": b"not parquet", "cut": parquet(numbered(50))[:-20]},
    ".tsv": {"uneven": b"text\tlabel\na\t1\nb\t1\t2\n", "empty": b"", "not utf-8": b"text\tlabel\n\xff\t1\n"},
    ".csv": {"an open quote": b'text,label\n"a,1\n', "empty": b""},
}


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        pytest.param(ending, content, id=f"{kind}{ending}")
        for ending, kinds in DAMAGED.items()
        for kind, content in kinds.items()
    ],
)
def test_unreadable_file_error_is_one_line(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / "toy").mkdir()
    path = tmp_path / "toy" / f"train{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))) as raised:
        load_rows(TOY, "train", tmp_path)
    assert "\n" not in str(raised.value)


def test_offline_error_names_both_remedies() -> None:
    task = task_of(hub=HubData(path="nobody/nothing", name="toy"))
    with pytest.raises(UserError, match=r"toy.*nobody/nothing.*connect.*data_dir=FOLDER"):
        load_rows(task, "train", None)
    with pytest.raises(UserError, match=r"toy.*not on the hub.*data_dir=FOLDER"):
        load_rows(TOY, "train", None)


# Splits


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of a hundred distinct rows."""
    return write(tmp_path_factory.mktemp("hundred"), numbered(100))


def numbers_in(rows: list[Row]) -> list[int]:
    return [int(row.texts[0].removeprefix("row ")) for row in rows]


def test_without_limits_all_rows_are_kept_in_order(hundred: Path) -> None:
    splits = load_splits(TOY, hundred)
    assert numbers_in(splits.train) == numbers_in(splits.validation) == list(range(100))
    assert splits.held_out == []


def test_limits_select_the_same_rows_for_every_seed(hundred: Path) -> None:
    drawn = [load_splits(TOY, hundred, limit_train=30, limit_eval=20, seed=seed) for seed in (0, 1)]
    for splits in drawn:
        assert numbers_in(splits.train) == numbers_in(drawn[0].train)
        assert numbers_in(splits.validation) == numbers_in(drawn[0].validation)
    chosen = numbers_in(drawn[0].train)
    assert len(set(chosen)) == 30
    assert chosen == sorted(chosen) != list(range(30))  # a random choice, in the original order
    assert len(numbers_in(drawn[0].validation)) == 20


def test_a_limit_keeps_the_rows_that_earlier_runs_had(hundred: Path) -> None:
    """Runs with a limit are known by their number of rows alone, so these must never be others."""
    kept = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:30]
    assert numbers_in(load_splits(TOY, hundred, limit_train=30, seed=7).train) == sorted(kept.tolist())


@pytest.mark.parametrize("most", [1, 30, 99, 100, 101])
def test_so_many_rows_read_are_those_that_a_limit_keeps(hundred: Path, most: int) -> None:
    table = read_table(TOY, "train", hundred, columns=TOY.columns, most=most)
    limited = load_splits(TOY, hundred, limit_train=most).train
    assert [row["text"] for row in table.rows] == [row.texts[0] for row in limited]
    assert (len(table.rows), table.total) == (min(most, 100), 100)


@pytest.mark.parametrize("limit", [100, 101, 10_000])
def test_a_limit_above_the_number_of_rows_takes_all_and_says_so(
    hundred: Path, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load_splits(TOY, hundred, limit_train=limit, limit_eval=limit)
    assert numbers_in(splits.train) == numbers_in(splits.validation) == list(range(100))
    said = [message for message in caplog.messages if "limit_" in message]
    expected = [
        f"limit_train={limit} is more than the 100 train rows, so all of them are used",
        f"limit_eval={limit} is more than the 100 validation rows, so all of them are used",
    ]
    assert said == (expected if limit > 100 else [])


@pytest.mark.parametrize(("fraction", "most", "limit", "size"), [
    (0.1, 1000, None, 10), (0.1, 5, None, 5), (0.25, 1000, None, 25), (0.1, 1000, 44, 4), (0.1, 1000, 46, 5),
    (0.1, 1000, 3, 1),
])  # fmt: skip
def test_held_out_rows_are_taken_from_train(
    hundred: Path, fraction: float, most: int, limit: int | None, size: int
) -> None:
    options: dict[str, Any] = {"held_out_rows": fraction, "held_out_max": most, "limit_train": limit}
    by_seed = [load_splits(TOY, hundred, seed=seed, **options) for seed in range(6)]
    whole = set(numbers_in(load_splits(TOY, hundred, limit_train=limit).train))
    for splits in by_seed:
        assert len(splits.held_out) == size
        assert set(numbers_in(splits.train)).isdisjoint(numbers_in(splits.held_out))
        assert {*numbers_in(splits.train), *numbers_in(splits.held_out)} == whole
        assert numbers_in(splits.train) == sorted(numbers_in(splits.train))  # as in the file: shuffling begins there
        assert splits.info.fingerprint == fingerprint([*splits.train, *splits.held_out, *splits.validation])
        assert numbers_in(splits.validation) == list(range(100))
    assert len({tuple(sorted(numbers_in(splits.held_out))) for splits in by_seed}) > 1  # drawn with the seed
    assert load_splits(TOY, hundred, seed=0, **options) == by_seed[0]


def test_the_fair_protocol_caps_the_held_out_rows(compose: Callable[..., RunConfig]) -> None:
    config = compose("task=grammar", "protocol=fair")
    task = text_task(config)
    splits = load_splits(
        task, None, held_out_rows=config.protocol.held_out_rows, held_out_max=config.protocol.held_out_max
    )
    assert (len(splits.train), len(splits.held_out)) == (3600, 400)
    capped = load_splits(task, None, held_out_rows=0.5, held_out_max=config.protocol.held_out_max)
    assert (len(capped.train), len(capped.held_out)) == (3000, 1000)


def test_no_train_rows_left_is_an_error(hundred: Path) -> None:
    with pytest.raises(UserError, match=r"toy.*no train rows"):
        load_splits(TOY, hundred, limit_train=1, held_out_rows=0.5, held_out_max=10)


@pytest.mark.parametrize(("official", "limits", "expected"), [
    ({}, {}, False),
    ({"train": 100, "validation": 100}, {}, False),
    ({"train": 100, "validation": 100}, {"held_out_rows": 0.1, "held_out_max": 9}, False),
    ({"train": 101, "validation": 100}, {}, True),
    ({"train": 100, "validation": 101}, {}, True),
    ({}, {"limit_train": 99}, True),
    ({}, {"limit_eval": 99}, True),
])  # fmt: skip
def test_a_subset_is_recorded_as_one(
    hundred: Path, official: dict[str, int], limits: dict[str, Any], expected: bool
) -> None:
    info = load_splits(task_of(rows=official), hundred, **limits).info
    assert info.subset is expected
    assert info.official_rows == official
    held_out = 9 if "held_out_rows" in limits else 0
    assert info.rows == {
        "train": limits.get("limit_train", 100) - held_out, "held_out": held_out,
        "validation": limits.get("limit_eval", 100),
    }  # fmt: skip


# Fingerprints


def test_fingerprint_does_not_depend_on_the_file_format(tmp_path: Path) -> None:
    rows = [{"text": text, "label": 1} for text in TEXTS]
    found = {
        load_splits(TOY, write(tmp_path / ending.replace(".", "_"), rows, ending)).info.fingerprint
        for ending in ENDINGS
    }
    assert len(found) == 1


def test_different_rows_have_different_fingerprints(hundred: Path) -> None:
    rows = [Row(("a", "b"), 1), Row(("c", "d"), 0)]
    others = [
        rows[:1],
        rows[::-1],
        [Row(("a", "b"), 0), rows[1]],
        [Row(("a", "b"), 1.5), rows[1]],
        [Row(("ab", ""), 1), rows[1]],
        [Row(("a", "b "), 1), rows[1]],
        [Row(("a",), 1), rows[1]],
    ]
    assert len({fingerprint(some) for some in (rows, *others)}) == len(others) + 1
    whole, part = (load_splits(TOY, hundred, limit_train=limit).info.fingerprint for limit in (None, 50))
    assert whole != part


def test_a_source_is_described_by_file_contents_only(tmp_path: Path) -> None:
    one, copy = (write(tmp_path / name, numbered(3)) for name in ("one", "copy"))
    os.utime(copy / "toy/train.jsonl", (1e9, 1e9))
    assert describe_source(TOY, one) == describe_source(TOY, copy)
    assert str(tmp_path) not in describe_source(TOY, one)
    (copy / "toy/validation.jsonl").write_bytes(jsonl(numbered(4)))
    assert describe_source(TOY, one) != describe_source(TOY, copy)
    assert load_splits(TOY, one).info.source == describe_source(TOY, one)


def test_moving_a_row_between_splits_changes_the_source(tmp_path: Path) -> None:
    described = set()
    for cut in (2, 3):
        write(tmp_path / str(cut), numbered(5)[:cut], splits=("train",))
        write(tmp_path / str(cut), numbered(5)[cut:], splits=("validation",))
        described.add(describe_source(TOY, tmp_path / str(cut)))
    assert len(described) == 2


def test_hub_and_generator_sources_are_described_by_name() -> None:
    hub = task_of(hub=HubData(path="nyu-mll/glue", name="cola", revision="abc"))
    assert describe_source(hub, None) == "hub nyu-mll/glue/cola@abc"
    assert describe_source(task_of(hub=HubData(path="a/b")), None) == "hub a/b@main"
    assert describe_source(task_of(embedded="grammar"), None) == "embedded grammar"


# Real data, if present

DATA = conf_folder().parent.parent / "shared/data"
# Rows of the local train files; QNLI's, MNLI's and BoolQ's are partial. All validation files are complete.
TRAIN_ROWS = {
    "cola": 8551, "mrpc": 3668, "rte": 2490, "stsb": 5749, "sst2": 67349, "qnli": 18869, "mnli": 39679, "boolq": 2000,
    "wic": 5428,
}  # fmt: skip
PARTIAL = ("qnli", "mnli", "boolq")


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the GLUE and SuperGLUE files beside the repository")
@pytest.mark.parametrize("name", TRAIN_ROWS)
def test_the_papers_tasks_load_from_data_dir(compose: Callable[..., RunConfig], name: str) -> None:
    task = text_task(compose(f"task={name}"))
    splits = load_splits(task, DATA)
    assert len(splits.train) == TRAIN_ROWS[name]
    assert len(splits.validation) == task.rows[task.validation]
    assert (len(splits.train) == task.rows["train"]) == (name not in PARTIAL)
    assert splits.info.subset == (name in PARTIAL)
    if task.labels:
        assert {row.label for row in splits.validation} == set(range(len(task.labels)))
    assert all(len(row.texts) == len(task.text) and all(row.texts) for row in splits.train)
