import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.language_modelling.documents import Documents, load_documents
from rosa_bench.tasks.language_modelling.task import LanguageTask

TEXTS = [f"Document {number}, {'äöü€'[number % 4]} and\nits second line." for number in range(20)]
HELD_OUT = [f"Held-out {number}." for number in range(4)]

Load = Callable[..., Documents]


def write(path: Path, texts: list[str], column: str = "text") -> None:
    lines = "".join(json.dumps({column: text, "id": 1}) + "\n" for text in texts)
    match path.suffix:
        case ".txt":
            path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        case ".gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".parquet":
            pq.write_table(pa.table({column: texts}), path)
        case _:
            path.write_text(lines, encoding="utf-8")


@pytest.fixture
def load(compose: Callable[..., RunConfig], tmp_path: Path) -> Load:
    """``load("limit_train=3")``: the documents of ``tmp_path`` under these overrides."""

    def make(*overrides: str) -> Documents:
        config = compose("task=text", "model=tiny_llama", "device=cpu", f"data_dir='{tmp_path}'", *overrides)
        assert isinstance(config.task, LanguageTask)
        return load_documents(config.task, resolve(config, {}).context)

    return make


# Files


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".jsonl.gz", ".parquet"])
def test_every_format_has_the_same_documents_and_fingerprint(load: Load, tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"train{ending}", TEXTS)
    write(tmp_path / f"validation{ending}", HELD_OUT)
    found = load("protocol=paper")
    assert (found.train, found.held_out, found.validation) == (TEXTS, [], HELD_OUT)
    assert found.validation_from == "validation"
    assert found.info.rows == {"train": 20, "held_out": 0, "validation": 4}
    assert (found.info.subset, found.info.official, found.info.synthetic) == (False, None, False)
    write(tmp_path / f"train{ending}", [*TEXTS[:-1], TEXTS[-1] + "!"])
    assert load("protocol=paper").info.fingerprint != found.info.fingerprint
    (tmp_path / f"train{ending}").unlink()
    write(tmp_path / "train.csv", [])
    (tmp_path / "train.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS), encoding="utf-8")
    assert load("protocol=paper").info.fingerprint == found.info.fingerprint


def test_blank_lines_separate_the_paragraphs_of_plain_text(load: Load, tmp_path: Path) -> None:
    text = "\ufeff\n \nOne,\r\n  two\r\n\r\n \t\nthree\n\n\n\nfour"
    (tmp_path / "train.txt").write_bytes(text.encode())
    write(tmp_path / "validation.txt", HELD_OUT)
    assert load("protocol=paper").train == ["One,\n  two", "three", "four"]


def test_another_column_can_hold_the_text(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", TEXTS, "body")
    write(tmp_path / "validation.jsonl", HELD_OUT, "body")
    assert load("task.text_column=body", "protocol=paper").train == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.txt", b"", "train.txt has no rows"),
        ("train.txt", b"\n \n", "train.txt has no rows"),
        ("train.txt", b"good\n\nbad \xff\n", "train.txt, row 2 (line 3): is not UTF-8"),
        ("train.txt", "ab".encode("utf-16"), "UTF-16"),
        ("train.jsonl", b'{"body": "x"}\n', "no column text; the columns are body"),
        ("train.jsonl", b'{"text": "x"}\n{"text": "  "}\n', "row 2: column text contains '  ', not a text"),
        ("train.jsonl", b'{"text": "x"}\n{"text": 7}\n', "row 2: column text contains 7, not a text"),
        ("train.jsonl", b'{"text": "x"}\n{"other": ""}\n', "row 2: column text contains None, not a text"),
        ("train.jsonl", b'{"text": "x"\n', "is not JSON"),
        ("train.jsonl.gz", b"not gzip", "cannot be read"),
        ("train.parquet", b"not parquet", "cannot be read"),
        ("train.md", b"text", "the folder {place} has no file of train rows (train.txt, train.jsonl.gz"),
        ("validation.txt", b"text", "has no file of train rows"),
        ("train.txt", b"only one", "one train document and no validation file"),
    ],
)
def test_a_wrong_file_is_reported_in_one_line(
    load: Load, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load()
    assert message.replace("{place}", str(tmp_path)) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_two_train_files_and_no_folder_are_reported(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXTS)
    write(tmp_path / "train.jsonl", TEXTS)
    with pytest.raises(UserError, match=r"several files of the train rows, train\.txt and train\.jsonl; keep one"):
        load()
    with pytest.raises(UserError, match=r"set data_dir=FOLDER to a folder that contains train\.txt, train\.jsonl or"):
        load("data_dir=null")


# Splits


def test_without_a_validation_file_the_same_documents_are_held_out_for_every_seed(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXTS)
    found = [load(f"seed={seed}", "task.validation_share=0.2", "protocol=paper") for seed in (0, 1)]
    assert found[0] == found[1]
    assert len(found[0].validation) == 4
    assert sorted(found[0].train + found[0].validation) == sorted(TEXTS)
    assert found[0].train == [text for text in TEXTS if text in found[0].train]
    assert found[0].validation_from == "train"
    assert not found[0].info.subset
    assert len(load("protocol=paper").validation) == 1  # a twentieth
    assert len(load("protocol=paper", "task.validation_share=0.99").train) == 1  # something is left to train on


def test_held_out_documents_depend_on_the_seed_and_are_not_trained_on(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXTS)
    write(tmp_path / "validation.txt", HELD_OUT)
    found = [load(f"seed={seed}", "protocol=fair") for seed in range(3)]
    for documents in found:
        assert len(documents.held_out) == 2
        assert sorted(documents.train + documents.held_out) == sorted(TEXTS)
        assert documents.validation == HELD_OUT
    assert len({tuple(documents.held_out) for documents in found}) > 1


def test_limits_count_documents(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXTS)
    write(tmp_path / "validation.txt", HELD_OUT)
    found = load("limit_train=10", "limit_eval=2", "protocol=fair")
    assert found.info.rows == {"train": 9, "held_out": 1, "validation": 2}
    assert found.info.subset
    assert set(found.validation) < set(HELD_OUT)
    with pytest.raises(UserError, match="no train documents left"):
        load("limit_train=1", "protocol=fair")


def test_published_manual_pages_are_recognised(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "manpages_de").mkdir()
    for split in ("train", "validation"):
        write(tmp_path / "manpages_de" / f"{split}.jsonl.gz", TEXTS)
    config = compose("task=manpages_de", "model=tiny_llama", "device=cpu", f"data_dir='{tmp_path}'")
    task: Any = config.task
    assert load_documents(task, resolve(config, {}).context).info.official is False


SHARED = conf_folder().parent.parent / "shared/data"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "manpages_de").is_dir(), reason="needs the German manual pages")
def test_the_german_manual_pages_are_the_published_ones(compose: Callable[..., RunConfig]) -> None:
    config = compose("task=manpages_de", "model=tiny_llama", "device=cpu", f"data_dir='{SHARED}'", "protocol=paper")
    task: Any = config.task
    found = load_documents(task, resolve(config, {}).context)
    assert (found.info.official, found.info.subset) == (True, False)
    assert found.info.rows == {"train": 863, "held_out": 0, "validation": 45}


def test_data_may_be_one_file(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("\n\n".join(f"paragraph {number}" for number in range(40)))
    resolved = resolve(compose("task=text", "model=tiny_llama", "device=cpu", f"data={tmp_path / 'novel.txt'}"), {})
    assert isinstance(resolved.config.task, LanguageTask)
    documents = load_documents(resolved.config.task, resolved.context)
    assert resolved.config.task.title == "novel.txt"
    assert (len(documents.validation), documents.validation_from) == (2, "train")
