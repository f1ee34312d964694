"""What is read for a task of writing: pairs of a prompt and a reference, and prompts with all of theirs."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.rows import Row
from rosa_bench.data.source import ENDINGS
from rosa_bench.data.spec import HubData
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.rows import load_rows
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.generation.prompts import Pair, Prompt, PromptSplits, group_by_prompt, load_pairs, load_prompts
from rosa_bench.tasks.generation.task import Decoding, GenerationTask

Rows = list[dict[str, Any]]
SPLITS = ("train", "validation", "test")


def task_of(**changes: Any) -> GenerationTask:
    """A task in the folder `toy` whose columns are `say` and `as`."""
    settings: dict[str, Any] = {
        "name": "toy", "title": "Toy", "prompt": "say", "reference": "as", "separator": " ||", "loss_on_prompt": False,
        "decoding": Decoding(beams=1, no_repeat_ngram=0, max_new_tokens=8, length_penalty=1.0), "metric": "generation",
        "score": "bleu", "folder": "toy",
    }  # fmt: skip
    return GenerationTask(**{**settings, **changes})


TOY = task_of()


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(rows: Rows, sign: str) -> bytes:
    """For texts in which neither the sign nor a quotation mark comes."""
    return "".join(sign.join(line) + "\n" for line in [list(rows[0]), *(row.values() for row in rows)]).encode()


def parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": jsonl,
    ".jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    ".parquet": parquet,
    ".tsv": lambda rows: separated(rows, "\t"),
    ".csv": lambda rows: separated(rows, ","),
}


def write(folder: Path, rows: Rows, ending: str = ".jsonl", *, splits: tuple[str, ...] = SPLITS) -> Path:
    """A data folder whose ``splits`` all hold these rows."""
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / "toy" / f"{split}{ending}").write_bytes(WRITERS[ending](rows))
    return folder


def told(prompts: int) -> Rows:
    """As many prompts, the n-th with 1 + n % 3 references; those of one prompt do not stand together."""
    return [
        {"say": f"prompt {number}", "as": f"text {number}.{turn}"}
        for turn in range(3)
        for number in range(prompts)
        if turn <= number % 3
    ]


# Grouping


def test_prompts_stand_as_they_first_come_with_their_references_in_order() -> None:
    pairs = [Pair("b", "1"), Pair("a", "2"), Pair("b", "0"), Pair("c", "1"), Pair("a", "2"), Pair("b", "1")]
    assert group_by_prompt(pairs) == [Prompt("b", ["1", "0", "1"]), Prompt("a", ["2", "2"]), Prompt("c", ["1"])]


@given(st.lists(st.builds(Pair, st.sampled_from("abcde"), st.text("xyz", max_size=2)), max_size=30))
def test_grouping_loses_nothing_and_names_no_prompt_twice(pairs: list[Pair]) -> None:
    prompts = group_by_prompt(pairs)
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert Counter(pair for prompt in prompts for pair in prompt.pairs) == Counter(pairs)
    for prompt in prompts:
        assert prompt.pairs == [pair for pair in pairs if pair.prompt == prompt.text]


# Reading


def test_every_reader_is_tried() -> None:
    assert set(WRITERS) == set(ENDINGS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_file_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    rows = [{"say": "name[A Café]; n/a", "as": "NA"}, {"say": "12", "as": "007 — 漢"}, {"say": "12", "as": "true"}]
    splits = load_prompts(TOY, write(tmp_path, rows, ending))
    assert splits.train == [Pair("name[A Café]; n/a", "NA"), Pair("12", "007 — 漢"), Pair("12", "true")]
    assert splits.validation == splits.test == [Prompt("name[A Café]; n/a", ["NA"]), Prompt("12", ["007 — 漢", "true"])]


def test_space_around_a_text_is_of_no_account(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"say": " a\n", "as": "\tb  c "}, {"say": "a", "as": "d"}])
    assert load_prompts(TOY, folder).test == [Prompt("a", ["b  c", "d"])]


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"id": 3, "as": "b", "more": None, "say": "a"}])
    assert load_pairs(TOY, "train", folder) == [Pair("a", "b")]


@pytest.mark.parametrize("column", ["say", "as"])
@pytest.mark.parametrize("wrong", ["", " \n", None, 3, ["a"]])
@pytest.mark.parametrize("split", SPLITS)
def test_a_row_that_says_nothing_is_told_with_its_place(tmp_path: Path, split: str, wrong: Any, column: str) -> None:
    write(tmp_path, told(3))
    rows = told(3)
    write(tmp_path, [*rows[:2], {**rows[2], column: wrong}, *rows[3:]], splits=(split,))
    where = re.escape(str(tmp_path / f"toy/{split}.jsonl"))
    with pytest.raises(UserError, match=rf"{where}, row 3: column {column} contains .*, not a text"):
        load_prompts(TOY, tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("missing", ["say", "as"])
def test_a_missing_column_is_told_with_those_there_are(tmp_path: Path, missing: str, ending: str) -> None:
    other = "as" if missing == "say" else "say"
    folder = write(tmp_path, [{"words": "a", other: "b"}], ending)
    expected = rf"train{re.escape(ending)}: no column {missing}; the columns are words, {other}"
    with pytest.raises(UserError, match=expected):
        load_prompts(TOY, folder)


@pytest.mark.parametrize("missing", SPLITS)
def test_a_missing_split_is_told_with_what_was_looked_for(tmp_path: Path, missing: str) -> None:
    folder = write(tmp_path, told(3), splits=tuple(split for split in SPLITS if split != missing))
    expected = rf"no {missing} rows for task=toy.*{re.escape(str(tmp_path / 'toy'))}.*{missing}\.jsonl"
    with pytest.raises(UserError, match=expected):
        load_prompts(TOY, folder)


def test_a_split_without_rows_is_told(tmp_path: Path) -> None:
    write(tmp_path, told(3))
    write(tmp_path, [], splits=("test",))
    with pytest.raises(UserError, match=r"test\.jsonl has no rows"):
        load_prompts(TOY, tmp_path)


# Limits


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of forty prompts with one to three references."""
    return write(tmp_path_factory.mktemp("forty"), told(40))


def test_without_limits_every_row_is_there_in_order(forty: Path) -> None:
    splits = load_prompts(TOY, forty)
    pairs = [Pair(row["say"], row["as"]) for row in told(40)]
    assert splits.train == pairs
    assert splits.validation == splits.test == group_by_prompt(pairs)


def test_a_limit_is_of_rows_to_train_on_and_of_prompts_with_all_their_references(forty: Path) -> None:
    whole = load_prompts(TOY, forty)
    found = load_prompts(TOY, forty, limit_train=11, limit_eval=7)
    assert load_prompts(TOY, forty, limit_train=11, limit_eval=7) == found  # the same, whatever the seed
    drawn: list[tuple[list[Any], list[Any], int]] = [
        (found.train, whole.train, 11), (found.validation, whole.validation, 7), (found.test, whole.test, 7),
    ]  # fmt: skip
    for part, all_there_are, size in drawn:
        assert len(part) == size
        places = [all_there_are.index(one) for one in part]  # whole: a prompt without one of its texts is another
        assert places == sorted(set(places)) != list(range(size))  # a random choice, in its own order
    assert len({len(prompt.references) for prompt in found.test}) > 1


@pytest.mark.parametrize("limit", [78, 10_000])
def test_a_limit_above_what_there_is_is_none(forty: Path, limit: int) -> None:
    assert load_prompts(TOY, forty, limit_train=limit + 1, limit_eval=limit) == load_prompts(TOY, forty)


# What a record says


def test_rows_are_counted_by_split_and_not_prompts(forty: Path) -> None:
    counts = sum(1 + number % 3 for number in range(40))
    info = load_prompts(task_of(rows={"train": 99, "test": 5}, synthetic=True), forty).info
    assert info.rows == {"train": counts, "held_out": 0, "validation": counts, "test": counts}
    assert info.official_rows == {"train": 99, "test": 5}
    assert info.synthetic is True
    assert info.source.startswith("files sha256:")
    limited = load_prompts(TOY, forty, limit_train=5, limit_eval=4)
    assert limited.info.rows == {
        "train": 5, "held_out": 0,
        "validation": sum(len(prompt.references) for prompt in limited.validation),
        "test": sum(len(prompt.references) for prompt in limited.test),
    }  # fmt: skip


@pytest.mark.parametrize(("official", "limits", "expected"), [
    ({}, {}, False),
    ({"train": 79, "validation": 79, "test": 79}, {}, False),
    ({"train": 80}, {}, True),
    ({"validation": 80}, {}, True),
    ({"test": 80}, {}, True),
    ({}, {"limit_train": 78}, True),
    ({}, {"limit_eval": 39}, True),
])  # fmt: skip
def test_a_subset_is_called_one(forty: Path, official: dict[str, int], limits: dict[str, int], expected: bool) -> None:
    assert load_prompts(task_of(rows=official), forty, **limits).info.subset is expected


def test_equal_rows_have_equal_fingerprints_whatever_they_were_read_from(tmp_path: Path) -> None:
    folders = [write(tmp_path / ending.replace(".", "_"), told(5), ending) for ending in ENDINGS]
    assert len({load_prompts(TOY, folder).info.fingerprint for folder in folders}) == 1
    assert len({load_prompts(TOY, folder).info.source for folder in folders}) == len(ENDINGS)


@pytest.mark.parametrize("split", SPLITS)
def test_other_rows_in_any_split_have_another_fingerprint(tmp_path: Path, split: str) -> None:
    rows = told(5)
    others = [
        rows,
        rows[1:],
        [rows[1], rows[0], *rows[2:]],
        [{**rows[0], "as": "another"}, *rows[1:]],
        [{**rows[0], "say": "another"}, *rows[1:]],
    ]

    def fingerprint(some: Rows) -> str:
        write(tmp_path, rows)
        return load_prompts(TOY, write(tmp_path, some, splits=(split,))).info.fingerprint

    assert len({fingerprint(some) for some in others}) == len(others)


# The hub

COMMIT = "0123456789" * 4


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``cached("some/one", "main", {"train.parquet": rows})``: as if such files had once been fetched from the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def fill(name: str, revision: str, files: dict[str, Rows]) -> None:
        folder = tmp_path / f"datasets--{name.replace('/', '--')}"
        contents = {f"snapshots/{COMMIT}/{path}": parquet(rows) for path, rows in files.items()}
        for path, content in {f"refs/{revision}": COMMIT.encode(), **contents}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    return fill


def test_files_of_the_hub_that_were_fetched_once_need_no_network(cached: Callable[..., None]) -> None:
    rows = told(4)
    parts = {"0000": rows[:3], "0001": rows[3:]}
    cached(
        "some/one", "refs/convert/parquet",
        {f"default/{split}/{part}.parquet": parts[part] for split in SPLITS for part in ("0001", "0000")}
        | {"other/train/0000.parquet": [{"say": "x", "as": "y"}]},
    )  # fmt: skip
    task = task_of(hub=HubData(path="some/one", revision="refs/convert/parquet", files="default/{split}/*.parquet"))
    splits = load_prompts(task, None)
    assert splits.train == [Pair(row["say"], row["as"]) for row in rows]
    assert splits.test == group_by_prompt(splits.train)
    assert splits.info.source == "hub some/one@refs/convert/parquet"


def test_files_that_are_not_all_there_are_told(cached: Callable[..., None]) -> None:
    cached("some/one", "main", {f"{split}.parquet": told(3) for split in ("train", "validation")})
    with pytest.raises(UserError, match=r"toy.*some/one.*not cached.*connect.*toy/ with data_dir=FOLDER"):
        load_prompts(task_of(hub=HubData(path="some/one", files="{split}.parquet")), None)


def test_files_are_asked_for_by_split_and_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[tuple, dict[str, Any]]] = []

    def snapshot_download(*arguments: Any, **options: Any) -> str:
        calls.append((arguments, options))
        raise FileNotFoundError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match="some/one"):
        load_pairs(task_of(hub=HubData(path="some/one", revision="abc", files="of/{split}/*.parquet")), "test", None)
    expected = {"repo_type": "dataset", "revision": "abc", "allow_patterns": "of/test/*.parquet"}
    assert calls == [(("some/one",), expected)]


def test_e2e_lies_where_its_task_says(compose: Callable[..., RunConfig], cached: Callable[..., None]) -> None:
    task = compose("task=e2e_nlg").task
    assert isinstance(task, GenerationTask)
    rows = [{"meaning_representation": "name[A]", "human_reference": "A."}]
    cached(
        "tuetschek/e2e_nlg", "refs/convert/parquet",
        {f"default/{split}/0000.parquet": rows for split in ("train", "validation", "test")},
    )  # fmt: skip
    assert load_prompts(task, None).test == [Prompt("name[A]", ["A."])]


def test_a_task_with_a_readable_form_of_its_own_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple, dict[str, Any]]] = []

    def load_dataset(*arguments: Any, **options: Any) -> datasets.Dataset:
        asked.append((arguments, options))
        return datasets.Dataset.from_list([{"text": "a", "label": 0}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = TextTask(
        name="toy", title="Toy", score="accuracy", metric="accuracy", text=["text"], label="label", labels=["a"],
        hub=HubData(path="some/one", name="cola", revision="abc"),
    )  # fmt: skip
    assert load_rows(task, "validation", None) == [Row(("a",), 0)]
    assert asked == [(("some/one", "cola"), {"split": "validation", "revision": "abc"})]


@pytest.mark.parametrize("files", ["{split}.parquet", None])
def test_without_a_network_both_ways_out_are_named(files: str | None) -> None:
    task = task_of(hub=HubData(path="nobody/nothing", files=files))
    with pytest.raises(UserError, match=r"toy.*nobody/nothing.*connect.*toy/ with data_dir=FOLDER"):
        load_prompts(task, None)


# The embedded task


def test_the_embedded_task_is_whole_and_needs_no_folder(compose: Callable[..., RunConfig]) -> None:
    task = compose("task=restaurants").task
    assert isinstance(task, GenerationTask)
    splits: PromptSplits = load_prompts(task, None)
    assert splits.info.rows == {"held_out": 0, **task.rows}
    assert not splits.info.subset
    assert splits.info.synthetic
    assert (len(splits.validation), len(splits.test)) == (60, 60)
