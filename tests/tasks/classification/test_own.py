"""The user's own data: what is found in them, what is refused in one line, and what the record says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig

from rosa_bench.config.schema import RunConfig
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification import found, rows
from rosa_bench.tasks.classification.own import OwnTask
from rosa_bench.tasks.classification.rows import Splits, load_splits

TINY = ("model=tiny_bert", "method=lora", "device=cpu", "epochs=1", "batch_size=8", "lr=1e-3", "max_length=32")
WORDS = [("good film", "yes"), ("bad film", "no"), ("fine", "yes"), ("dull", "no")] * 5
Rows = list[dict[str, Any]]


@pytest.fixture
def resolved(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ResolvedRun]:
    """``resolved("task=classify", "data=a.csv")`` in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


def task_of(found_run: ResolvedRun) -> OwnTask:
    task = found_run.config.task
    assert isinstance(task, OwnTask)
    return task


def splits_of(one: ResolvedRun, **limits: Any) -> Splits:
    return load_splits(task_of(one), one.rows, **limits)


def write(place: Path, data: Rows) -> None:
    """Rows in the format of the file's ending."""
    names = list(data[0])
    if place.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(data), place)
    elif place.suffix == ".jsonl":
        place.write_text("".join(json.dumps(row) + "\n" for row in data))
    else:
        mark = "\t" if place.suffix == ".tsv" else ","
        lines = [names, *([str(row[name]) for name in names] for row in data)]
        place.write_text("".join(mark.join(line) + "\n" for line in lines))


def labelled(labels: list[Any], column: str = "label") -> Rows:
    return [{"text": f"row {number}", column: label} for number, label in enumerate(labels)]


# What is found


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_words_become_classes_in_a_fixed_order(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, ending: str
) -> None:
    data = [{"review": text, "verdict": label} for text, label in WORDS]
    write(tmp_path / f"films.{ending}", data)
    one = resolved("task=classify", f"data=films.{ending}")
    task = task_of(one)
    assert (task.text, task.label, task.labels, task.title) == (["review"], "verdict", ["no", "yes"], f"films.{ending}")
    assert (task.metric, task.score, task.num_outputs) == ("classes", "accuracy", 2)
    splits = splits_of(one)
    assert len(splits.validation) == 4  # a fifth
    for row in [*splits.train, *splits.validation]:
        assert dict(WORDS)[row.texts[0]] == ["no", "yes"][int(row.label)]


@pytest.mark.parametrize(("labels", "expected"), [
    ([10, 9, 2] * 3, (["2", "9", "10"], [])),  # by size, not by spelling
    ([True, False] * 3, (["False", "True"], [])),
    ([1.0, 0.0] * 3, (["0", "1"], [])),
    ([0.5, 3, 2.25] * 3, ([], [0.5, 3.0])),
    (list(range(21)), ([], [0.0, 20.0])),  # 21 different whole numbers are no classes
    (list(range(20)) * 2, ([str(number) for number in range(20)], [])),
])  # fmt: skip
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_numbers_are_classes_or_values(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, labels: list, expected: tuple[list, list], ending: str
) -> None:
    write(tmp_path / f"a.{ending}", labelled(labels))
    task = task_of(resolved("task=classify", f"data=a.{ending}"))
    assert (task.labels, task.interval) == expected
    assert task.score == ("accuracy" if task.labels else "pearson")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_whole_number_beyond_the_range_of_floats_is_a_class(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, ending: str
) -> None:
    write(tmp_path / f"a.{ending}", labelled([10**400, 10**400 + 1] * 10))
    one = resolved("task=classify", f"data=a.{ending}")
    assert task_of(one).labels == [str(10**400), str(10**400 + 1)]
    assert {row.label for row in splits_of(one).train} == {0, 1}
    with pytest.raises(UserError, match=r"row 1: column label contains .*, not a number"):
        resolved("task=regress", f"data=a.{ending}")


def test_regress_takes_whole_numbers_as_numbers(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    write(tmp_path / "a.csv", labelled([1, 2, 3] * 3))
    one = resolved("task=regress", "data=a.csv")
    assert task_of(one).interval == [1.0, 3.0]
    assert {row.label for row in splits_of(one).train} == {1.0, 2.0, 3.0}


@pytest.mark.parametrize(("columns", "settings", "expected"), [
    (("question", "passage", "answer"), (), (["question", "passage"], "answer")),
    (("id", "hypothesis", "premise", "gold"), (), (["premise", "hypothesis"], "gold")),
    (("one", "other", "stars"), (), (["one", "other"], "stars")),
    (("title", "author", "Text", "Label"), (), (["Text"], "Label")),
    (("a", "b", "c"), ("task.text=[c,a]", "task.label=b"), (["c", "a"], "b")),
    (("a", "b"), ("task.text=[b]",), (["b"], "a")),
])  # fmt: skip
def test_columns_are_found_or_named(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, columns: tuple, settings: tuple, expected: tuple
) -> None:
    text, label = expected
    answers = ["y", "n"] * 4
    data = [
        {name: answer if name == label else f"{name} {number}" for name in columns}
        for number, answer in enumerate(answers)
    ]
    write(tmp_path / "a.jsonl", data)
    one = resolved("task=classify", "data=a.jsonl", *settings)
    assert (task_of(one).text, task_of(one).label) == (text, label)
    assert splits_of(one).train[0].texts[0].startswith(f"{text[0]} ")


@pytest.mark.parametrize(("files", "split"), [
    (("train", "validation", "test"), "validation"), (("train", "dev"), "dev"), (("train", "test"), "test"),
])  # fmt: skip
def test_a_folder_has_its_own_validation_rows(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, files: tuple[str, ...], split: str
) -> None:
    (tmp_path / "mine").mkdir()
    for name in files:
        write(tmp_path / "mine" / f"{name}.csv", [{"text": f"{name} {n}", "label": n % 2} for n in range(6)])
    one = resolved("task=classify", "data=mine")
    assert (task_of(one).validation, task_of(one).title) == (split, "mine")
    assert [row.texts[0] for row in splits_of(one).validation] == [f"{split} {number}" for number in range(6)]


def test_test_rows_without_labels_are_left_out(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.csv", labelled([0, 1] * 5))
    write(tmp_path / "mine" / "test.csv", [{"text": "unknown"}] * 3)
    splits = splits_of(resolved("task=classify", "data=mine"))
    assert (len(splits.train), len(splits.validation)) == (8, 2)
    write(tmp_path / "mine" / "test.csv", labelled([0, "", 1]))  # as in a mistake, and not in a contest
    with pytest.raises(UserError, match=r"test.csv: 1 of 3 rows have no label"):
        resolved("task=classify", "data=mine")


def test_held_out_rows_are_the_same_for_every_seed_and_duplicates_are_counted(
    resolved: Callable[..., ResolvedRun], tmp_path: Path
) -> None:
    write(tmp_path / "a.csv", [{"text": text, "label": label} for text, label in WORDS])
    first, second = (splits_of(resolved("task=classify", "data=a.csv"), seed=seed) for seed in (0, 1))
    assert first.validation == second.validation
    said = first.facts["note"]
    assert "dev: 4 of the 20 rows, drawn at random" in said
    assert "4 of the 4 dev rows have the text of a train row" in said
    assert "(no 10, yes 10)" in said


def test_held_out_rows_are_from_the_whole_file_in_its_order(
    resolved: Callable[..., ResolvedRun], tmp_path: Path
) -> None:
    write(tmp_path / "a.csv", labelled([0] * 50 + [1] * 50))  # sorted by label, as many files are
    splits = splits_of(resolved("task=classify", "data=a.csv"))
    train, dev = ([int(row.texts[0].split()[1]) for row in part] for part in (splits.train, splits.validation))
    assert (train, dev) == (sorted(train), sorted(dev))
    assert sorted(train + dev) == list(range(100))
    assert {row.label for row in splits.validation} == {0, 1}


def test_long_names_of_classes_are_cut_in_the_note(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    write(tmp_path / "a.csv", labelled(["a" * 40, "b" * 41] * 5))
    said = splits_of(resolved("task=classify", "data=a.csv")).facts["note"]
    assert f"({'a' * 40} 5, {'b' * 37}... 5)" in said


def test_a_large_file_is_read_as_a_stream_and_limited(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 50)
    monkeypatch.setattr(found, "HEAD", 10)
    write(tmp_path / "a.csv", labelled([number % 2 for number in range(400)]))
    one = resolved("task=classify", "data=a.csv")
    splits = splits_of(one)
    assert len(splits.train) + len(splits.validation) == 50
    assert "50 random rows of 400, the same in every run" in splits.facts["note"]
    assert splits_of(one) == splits
    numbers = [int(row.texts[0].split()[1]) for row in splits.train]
    assert numbers == sorted(numbers)
    assert max(numbers) > 50
    assert len(splits_of(one, limit_train=100).train) == 80  # of the 100 rows that are kept


def test_a_limit_beyond_the_most_rows_is_kept_for_each_file(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 50)
    (tmp_path / "mine").mkdir()
    for split in ("train", "validation"):
        write(tmp_path / "mine" / f"{split}.csv", labelled([number % 2 for number in range(400)]))
    one = resolved("task=classify", "data=mine")
    for limits, expected in (({}, (50, 50)), ({"limit_train": 70}, (70, 50)), ({"limit_eval": 90}, (50, 90))):
        splits = splits_of(one, **limits)
        assert (len(splits.train), len(splits.validation)) == expected


def test_the_labels_of_all_rows_are_known_before_training(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of rows in which no columns are looked for, and of validation rows."""
    monkeypatch.setattr(found, "HEAD", 4)
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine/train.csv", labelled(["x", "y"] * 2 + ["z"]))
    write(tmp_path / "mine/validation.csv", labelled(["x", "x", "z"]))
    task = task_of(resolved("task=classify", "data=mine"))
    assert task.labels == ["x", "y", "z"]  # z is once in each
    write(tmp_path / "mine/train.csv", labelled([0.5, 1, 2, 3, 4]))
    write(tmp_path / "mine/validation.csv", labelled([1, 7.5, -2]))
    assert task_of(resolved("task=classify", "data=mine")).interval == [-2.0, 7.5]
    write(tmp_path / "mine/validation.csv", labelled([1, "good"]))
    with pytest.raises(UserError, match=r"validation.csv, row 2: column label contains 'good', not a number"):
        resolved("task=classify", "data=mine")


def test_there_may_be_so_many_classes_and_no_more(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "MOST_CLASSES", 5)
    write(tmp_path / "a.csv", labelled([f"w{number}" for number in range(5)] * 2))
    assert len(task_of(resolved("task=classify", "data=a.csv")).labels) == 5
    write(tmp_path / "b.csv", labelled([f"w{number}" for number in range(6)] * 2))
    with pytest.raises(UserError, match=r"b.csv: column label has more than 5 different labels"):
        resolved("task=classify", "data=b.csv")


# Identity


def test_the_content_is_the_identity_and_the_name_is_not(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv", labelled([0, 1] * 5))
    write(tmp_path / "c.csv", labelled([1, 0] * 5))
    a, b, c = (resolved("task=classify", f"data={name}.csv") for name in "abc")
    assert a.id == b.id != c.id
    assert resolved("task=classify", "data=a.csv", "task.text=[text]").id == a.id


# Refused, in one line, before any training


ONE = "a.csv"


@pytest.mark.parametrize(("content", "settings", "said"), [
    (b"text,label\na,x\nb,y\nc,x\n", (), "labels that occur once cannot be learned: 'y' (row 2)"),
    (b"text,label\na,x\nb,x\n", (), "all 2 rows have the label 'x' in column label"),
    (b"text,label\n,x\n ,y\n", (), "column text is empty in all 2 rows; the other columns: label"),
    (b"text,label\na,3\nb,good\nc,3\n", (), "column label mixes numbers and words: '3' in row 1, 'good' in row 2"),
    (b"text,label\na,3\nb,good\n", ("task.learns=numbers",), "row 2: column label contains 'good', not a number"),
    (b"text,label\na,3\nb,3\n", ("task.learns=numbers",), "all 2 rows have the label 3 in column label"),
    (b"text,label\na,x\nb,\nc,y\n", (), "1 of 3 rows have no label in column label (the first is row 2)"),
    (b"text,label\na,x\nb,\nc,\n", (), "2 of 3 rows have no label in column label (the first is row 2)"),
    (b"body,kind\na,x\n", ("task.label=stars",), "no column stars; the columns are body, kind"),
    (b"body,label\na,x\n", ("task.text=[review]",), "no column review; the columns are body, label"),
    (b"one,two,three\na,b,c\n", (), "which column is the label? Set task.label=NAME; the columns, named by the first"),
    (b"text;label\na;x\n", (), "the only column is text;label, so separate the columns by a comma instead of ';'"),
    (b"one,two,three,label\na,b,c,d\n", (), "which column is the text? Set task.text=[NAME]"),
    (b"", (), "has no rows"),
    (b"text,label\n", (), "has no rows"),
    ("text,label\nnaïve,x\n".encode("latin-1"), (), "row 1 (line 2): is not UTF-8; save the file as UTF-8"),
    (b"text,label\na,x\nb,y\nb,y\na,x\n", ("task.labels=[x,z]",), "are not the labels of a.csv"),
    (b"text,label\na,0.5\nb,5e300\n", (), "column label contains 5e+300, too large a number to learn"),
    (b"text,label\na,0.5\nb,-5e300\n", (), "column label contains -5e+300, too large a number to learn"),
    (b"text,label\na,x\n", ("task.text=[label]", "task.label=label"), "column label is both the text and the label"),
])  # fmt: skip
def test_bad_data_are_refused(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, content: bytes, settings: tuple[str, ...], said: str
) -> None:
    (tmp_path / ONE).write_bytes(content)
    with pytest.raises(UserError) as raised:
        resolved("task=classify", f"data={ONE}", *settings)
    assert said in str(raised.value)
    assert ONE in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("validation", "said"), [
    ([{"text": "a"}], "has no column label, so its rows cannot be scored"),
    ([{"text": "a", "label": ""}], "all 1 rows have no label"),
    ([{"text": "a", "label": "z"}], "row 1: no train row has the label 'z'"),
    ([{"other": "a", "label": "x"}], "no column text; the columns are other, label"),
])  # fmt: skip
def test_bad_validation_rows_are_refused(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, validation: Rows, said: str
) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.csv", labelled(["x", "y"] * 3))
    write(tmp_path / "mine" / "validation.csv", validation)
    with pytest.raises(UserError) as raised:
        resolved("task=classify", "data=mine")
    assert said in str(raised.value)
    assert "validation.csv" in str(raised.value)


def test_too_large_a_number_is_reported_in_its_own_file(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.csv", labelled([0.5, 1.5, 2.5]))
    write(tmp_path / "mine" / "validation.csv", labelled([0.5, -5e300]))
    with pytest.raises(UserError, match=r"validation\.csv: column label contains -5e\+300, too large a number"):
        resolved("task=classify", "data=mine")


@pytest.mark.parametrize(("settings", "said"), [
    (("task=classify",), "task=classify needs your data: data=FILE"),
    (("task=classify", "data=nowhere.csv"), "data=nowhere.csv does not exist"),
    (("task=classify", "data=a.xlsx"), "data=a.xlsx is not a kind of file that is read"),
    (("task=cola", "data=a.xlsx"), "data=a.xlsx is not for task=cola, which has rows of its own"),
])  # fmt: skip
def test_a_wrong_place_is_refused(
    resolved: Callable[..., ResolvedRun], tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError) as raised:
        resolved(*settings)
    assert said in str(raised.value)


# A run


@pytest.mark.slow
def test_a_run_on_own_data_says_what_it_is(resolved: Callable[..., ResolvedRun], tmp_path: Path) -> None:
    write(tmp_path / "films.csv", [{"text": f"{text} {n}", "label": label} for n, (text, label) in enumerate(WORDS)])
    one = resolved("task=classify", "data=films.csv", "save_model=true")
    record = run(one)
    assert record.settings.task.title == "films.csv"
    assert record.config["task"]["labels"] == ["no", "yes"]
    assert "data" not in record.config
    assert record.data.official is None
    assert set(record.selected) >= {"accuracy", "macro_f1", "matthews_correlation"}
    assert not [key for key in changes_of(record) if key.startswith("task.")]  # what is found is no change
    assert AutoConfig.from_pretrained(one.saved_model).id2label == {0: "no", 1: "yes"}
