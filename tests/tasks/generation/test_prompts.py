"""Loading the rows of generation tasks: pairs of prompt and reference, and prompts with all their references."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.source import ENDINGS
from rosa_bench.data.spec import HubData
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.prompts import Pair, Prompt, PromptSplits, group_by_prompt, load_pairs, load_prompts
from rosa_bench.tasks.generation.task import Decoding, GenerationTask

Rows = list[dict[str, Any]]
SPLITS = ("train", "validation", "test")


def task_of(**changes: Any) -> GenerationTask:
    """A task in the folder `toy` with the columns `say` and `as`."""
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
    """For texts without the separator and without quotation marks."""
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
    """A data folder with these rows in each of ``splits``."""
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / "toy" / f"{split}{ending}").write_bytes(WRITERS[ending](rows))
    return folder


def example_rows(prompts: int) -> Rows:
    """Rows of ``count`` prompts, the n-th with 1 + n % 3 references; those of a prompt are not adjacent."""
    return [
        {"say": f"prompt {number}", "as": f"text {number}.{turn}"}
        for turn in range(3)
        for number in range(prompts)
        if turn <= number % 3
    ]


# Grouping


def test_grouping_keeps_the_order_of_first_appearance() -> None:
    pairs = [Pair("b", "1"), Pair("a", "2"), Pair("b", "0"), Pair("c", "1"), Pair("a", "2"), Pair("b", "1")]
    assert group_by_prompt(pairs) == [Prompt("b", ["1", "0", "1"]), Prompt("a", ["2", "2"]), Prompt("c", ["1"])]


@given(st.lists(st.builds(Pair, st.sampled_from("abcde"), st.text("xyz", max_size=2)), max_size=30))
def test_grouping_keeps_every_reference_and_merges_prompts(pairs: list[Pair]) -> None:
    prompts = group_by_prompt(pairs)
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert Counter(pair for prompt in prompts for pair in prompt.pairs) == Counter(pairs)
    for prompt in prompts:
        assert prompt.pairs == [pair for pair in pairs if pair.prompt == prompt.text]


# Reading


def test_all_file_formats_are_tested() -> None:
    assert set(WRITERS) == set(ENDINGS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    rows = [{"say": "name[A Café]; n/a", "as": "NA"}, {"say": "12", "as": "007 — 漢"}, {"say": "12", "as": "true"}]
    splits = load_prompts(TOY, write(tmp_path, rows, ending))
    assert splits.train == [Pair("name[A Café]; n/a", "NA"), Pair("12", "007 — 漢"), Pair("12", "true")]
    assert splits.validation == splits.test == [Prompt("name[A Café]; n/a", ["NA"]), Prompt("12", ["007 — 漢", "true"])]


def test_each_split_is_read_from_its_own_file(tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path, [{"say": split, "as": "a"}], splits=(split,))
    splits = load_prompts(TOY, tmp_path)
    assert (splits.train, splits.validation, splits.test) == (
        [Pair("train", "a")], [Prompt("validation", ["a"])], [Prompt("test", ["a"])],
    )  # fmt: skip


def test_space_around_a_text_is_stripped(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"say": " a\n", "as": "\tb  c "}, {"say": "a", "as": "d"}])
    assert load_prompts(TOY, folder).test == [Prompt("a", ["b  c", "d"])]


def test_extra_columns_and_column_order_do_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"id": 3, "as": "b", "more": None, "say": "a"}])
    assert load_pairs(TOY, "train", folder) == [Pair("a", "b")]


@pytest.mark.parametrize("column", ["say", "as"])
@pytest.mark.parametrize("wrong", ["", " \n", None, 3, ["a"]])
@pytest.mark.parametrize("split", SPLITS)
def test_empty_text_error_names_the_row(tmp_path: Path, split: str, wrong: Any, column: str) -> None:
    write(tmp_path, example_rows(3))
    rows = example_rows(3)
    write(tmp_path, [*rows[:2], {**rows[2], column: wrong}, *rows[3:]], splits=(split,))
    where = re.escape(str(tmp_path / f"toy/{split}.jsonl"))
    with pytest.raises(UserError, match=rf"{where}, row 3: column {column} contains .*, not a text"):
        load_prompts(TOY, tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("missing", ["say", "as"])
def test_missing_column_error_lists_the_columns(tmp_path: Path, missing: str, ending: str) -> None:
    other = "as" if missing == "say" else "say"
    folder = write(tmp_path, [{"words": "a", other: "b"}], ending)
    expected = rf"train{re.escape(ending)}: no column {missing}; the columns are words, {other}"
    with pytest.raises(UserError, match=expected):
        load_prompts(TOY, folder)


@pytest.mark.parametrize("missing", SPLITS)
def test_missing_split_error_lists_the_names_tried(tmp_path: Path, missing: str) -> None:
    folder = write(tmp_path, example_rows(3), splits=tuple(split for split in SPLITS if split != missing))
    expected = rf"no {missing} rows for task=toy.*{re.escape(str(tmp_path / 'toy'))}.*{missing}\.jsonl"
    with pytest.raises(UserError, match=expected):
        load_prompts(TOY, folder)


def test_a_split_without_rows_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, example_rows(3))
    write(tmp_path, [], splits=("test",))
    with pytest.raises(UserError, match=r"test\.jsonl has no rows"):
        load_prompts(TOY, tmp_path)


# Limits


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with forty prompts of one to three references."""
    return write(tmp_path_factory.mktemp("forty"), example_rows(40))


def test_without_limits_all_rows_are_kept_in_order(forty: Path) -> None:
    splits = load_prompts(TOY, forty)
    pairs = [Pair(row["say"], row["as"]) for row in example_rows(40)]
    assert splits.train == pairs
    assert splits.validation == splits.test == group_by_prompt(pairs)


def test_limits_count_train_rows_and_evaluation_prompts(forty: Path) -> None:
    whole = load_prompts(TOY, forty)
    found = load_prompts(TOY, forty, limit_train=11, limit_eval=7)
    assert load_prompts(TOY, forty, limit_train=11, limit_eval=7) == found  # the same for all seeds
    drawn: list[tuple[list[Any], list[Any], int]] = [
        (found.train, whole.train, 11), (found.validation, whole.validation, 7), (found.test, whole.test, 7),
    ]  # fmt: skip
    for part, all_there_are, size in drawn:
        assert len(part) == size
        places = [all_there_are.index(one) for one in part]  # all references of each prompt
        assert places == sorted(set(places)) != list(range(size))  # a random choice, in the original order
    assert len({len(prompt.references) for prompt in found.test}) > 1


@pytest.mark.parametrize("limit", [78, 10_000])
def test_a_limit_above_the_number_of_rows_has_no_effect(forty: Path, limit: int) -> None:
    assert load_prompts(TOY, forty, limit_train=limit + 1, limit_eval=limit) == load_prompts(TOY, forty)


# Description for the record


def test_info_counts_rows_not_prompts(forty: Path) -> None:
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
def test_a_subset_is_recorded_as_one(
    forty: Path, official: dict[str, int], limits: dict[str, int], expected: bool
) -> None:
    assert load_prompts(task_of(rows=official), forty, **limits).info.subset is expected


def test_fingerprint_does_not_depend_on_the_file_format(tmp_path: Path) -> None:
    folders = [write(tmp_path / ending.replace(".", "_"), example_rows(5), ending) for ending in ENDINGS]
    assert len({load_prompts(TOY, folder).info.fingerprint for folder in folders}) == 1
    assert len({load_prompts(TOY, folder).info.source for folder in folders}) == len(ENDINGS)


@pytest.mark.parametrize("split", SPLITS)
def test_different_rows_in_any_split_change_the_fingerprint(tmp_path: Path, split: str) -> None:
    rows = example_rows(5)
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
    """``cached("some/one", "main", {"train.parquet": rows})`` puts such files into the hub's local cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def fill(name: str, revision: str, files: dict[str, Rows]) -> None:
        folder = tmp_path / f"datasets--{name.replace('/', '--')}"
        contents = {f"snapshots/{COMMIT}/{path}": parquet(rows) for path, rows in files.items()}
        for path, content in {f"refs/{revision}": COMMIT.encode(), **contents}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    return fill


def test_cached_hub_files_need_no_network(cached: Callable[..., None]) -> None:
    rows = example_rows(4)
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


def test_missing_hub_files_are_an_error(cached: Callable[..., None]) -> None:
    cached("some/one", "main", {f"{split}.parquet": example_rows(3) for split in ("train", "validation")})
    with pytest.raises(UserError, match=r"toy.*some/one.*not cached.*connect.*data_dir=FOLDER.*contains toy/"):
        load_prompts(task_of(hub=HubData(path="some/one", files="{split}.parquet")), None)


def test_e2e_is_declared_with_its_hub_files(compose: Callable[..., RunConfig], cached: Callable[..., None]) -> None:
    task = compose("task=e2e_nlg").task
    assert isinstance(task, GenerationTask)
    rows = [{"meaning_representation": "name[A]", "human_reference": "A."}]
    cached(
        "tuetschek/e2e_nlg", "refs/convert/parquet",
        {f"default/{split}/0000.parquet": rows for split in ("train", "validation", "test")},
    )  # fmt: skip
    assert load_prompts(task, None).test == [Prompt("name[A]", ["A."])]


@pytest.mark.parametrize("files", ["{split}.parquet", None])
def test_offline_error_names_both_remedies(files: str | None) -> None:
    task = task_of(hub=HubData(path="nobody/nothing", files=files))
    with pytest.raises(UserError, match=r"toy.*nobody/nothing.*connect.*data_dir=FOLDER.*contains toy/"):
        load_prompts(task, None)


# The embedded task


def test_the_embedded_task_is_complete_and_needs_no_folder(compose: Callable[..., RunConfig]) -> None:
    task = compose("task=restaurants").task
    assert isinstance(task, GenerationTask)
    splits: PromptSplits = load_prompts(task, None)
    assert splits.info.rows == {"held_out": 0, **task.rows}
    assert not splits.info.subset
    assert splits.info.synthetic
    assert (len(splits.validation), len(splits.test)) == (60, 60)
