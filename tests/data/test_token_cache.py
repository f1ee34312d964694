import errno
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import normalizers, processors
from transformers import PreTrainedTokenizerFast

from rosa_bench.data import token_cache as tokenised
from rosa_bench.data.rows import Row
from rosa_bench.data.token_cache import Tokens, fingerprint, tokenise
from rosa_bench.models.weights.random import byte_tokenizer

LONGEST = 12
SINGLES = [Row(("é" * (number % 5) + "x" * (7 * number % 19),), number) for number in range(9)]  # one of them empty
PAIRS = [Row(("a" * (1 + 3 * number % 11), "b" * (5 * number % 13)), number) for number in range(9)]
ROWS = {"singles": SINGLES, "pairs": PAIRS}


def typed_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with token types, like BERT's."""
    tokenizer = byte_tokenizer(max_length=512)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


MAKE: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": lambda: byte_tokenizer(max_length=512),
    "typed": typed_tokenizer,
}


class Counting(PreTrainedTokenizerFast):
    """Counts its calls."""

    asked = 0

    def __call__(self, *texts: Any, **options: Any) -> Any:
        self.asked += 1
        return super().__call__(*texts, **options)


def counting(tokenizer: PreTrainedTokenizerFast | None = None) -> Counting:
    made = tokenizer or byte_tokenizer(max_length=512)
    made.__class__ = Counting
    assert isinstance(made, Counting)
    return made


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path))
    return tmp_path / "tokenised"


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache sets of any size."""
    monkeypatch.setattr(tokenised, "MIN_CACHED_EXAMPLES", 1)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def examples(tokens: Tokens) -> dict[str, list[list[int]]]:
    """Each column as one list of integers per example."""
    lengths = tokens.lengths.tolist()
    return {name: [part.tolist() for part in column.split(lengths)] for name, column in tokens.columns.items()}


def encoded(rows: list[Row], tokenizer: PreTrainedTokenizerFast, max_length: int = LONGEST) -> dict[str, Any]:
    """The tokenizer's output for each row alone."""
    ask: Any = tokenizer  # in a list, because a bare empty text would count as missing
    each = [ask(*([text] for text in row.texts), truncation=True, max_length=max_length) for row in rows]
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]
    assert all(set(one["attention_mask"][0]) == {1} for one in each)  # so the lengths are equivalent
    return {name: [one[name][0] for one in each] for name in names}


def assert_equal(found: Tokens, expected: Tokens) -> None:
    assert torch.equal(found.lengths, expected.lengths)
    assert list(found.columns) == list(expected.columns)
    assert all(torch.equal(found.columns[name], expected.columns[name]) for name in expected.columns)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("cached_from", [1, 9, 10])
def test_tokens_equal_the_tokenizers_output(
    monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, rows: str, cached_from: int
) -> None:
    monkeypatch.setattr(tokenised, "MIN_CACHED_EXAMPLES", cached_from)
    tokens = tokenise(ROWS[rows], MAKE[kind](), max_length=LONGEST)
    assert examples(tokens) == encoded(ROWS[rows], MAKE[kind]())
    assert tokens.lengths.max() == LONGEST > tokens.lengths.min()  # some were truncated, but not all
    assert {tensor.dtype for tensor in (*tokens.columns.values(), tokens.lengths)} == {torch.int64}
    assert len(files(folder)) == (cached_from <= len(ROWS[rows]))


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("count", [1, 7, 1000, 1001, 2345])  # `datasets` maps batches of a thousand
def test_sets_of_any_size_are_restored_completely(count: int) -> None:
    rows = [Row((f"{number}" * (number % 3),), number) for number in range(count)]
    for _ in range(2):
        tokens = tokenise(rows, byte_tokenizer(max_length=512), max_length=LONGEST)
        assert examples(tokens) == encoded(rows, byte_tokenizer(max_length=512))


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", MAKE)
def test_a_second_call_does_not_tokenise(folder: Path, kind: str, rows: str) -> None:
    first, second = counting(MAKE[kind]()), counting(MAKE[kind]())
    made = tokenise(ROWS[rows], first, max_length=LONGEST)
    kept = files(folder)
    assert_equal(tokenise(ROWS[rows], second, max_length=LONGEST), made)
    assert (first.asked, second.asked) == (1, 0)
    assert files(folder) == kept
    assert len(kept) == 1 and re.fullmatch(r"[0-9a-f]{64}\.safetensors", kept[0])


def test_small_sets_are_not_cached(folder: Path) -> None:
    tokenizer = counting()
    for _ in range(2):
        tokenise(SINGLES, tokenizer, max_length=LONGEST)
    assert tokenizer.asked == 2
    assert not folder.exists()


@pytest.mark.usefixtures("cached")
def test_cached_tokens_are_writable_without_changing_the_file() -> None:
    first = tokenise(SINGLES, counting(), max_length=LONGEST)
    expected = Tokens({name: column.clone() for name, column in first.columns.items()}, first.lengths.clone())
    second = tokenise(SINGLES, counting(), max_length=LONGEST)
    for tensor in (*second.columns.values(), second.lengths):
        tensor.zero_()
    assert_equal(tokenise(SINGLES, counting(), max_length=LONGEST), expected)


# What the file name depends on


def with_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens(["xx"])
    return tokenizer


def cut_left(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.truncation_side = "left"
    return tokenizer


def joined_as_bert(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.post_processor = typed_tokenizer().backend_tokenizer.post_processor
    return tokenizer


def with_types(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def lower_cased(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


class OtherTokenizer(PreTrainedTokenizerFast):
    """Another class may prepare texts in another way."""


def of_another_class(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.__class__ = OtherTokenizer
    return tokenizer


CHANGES: dict[str, Callable[[PreTrainedTokenizerFast], PreTrainedTokenizerFast]] = {
    "a token": with_token,
    "side": cut_left,
    "joining": joined_as_bert,
    "columns": with_types,
    "case": lower_cased,
    "class": of_another_class,
}


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("change", CHANGES)
def test_a_different_tokenizer_uses_a_different_file(folder: Path, change: str) -> None:
    for make in (lambda tokenizer: tokenizer, CHANGES[change]):
        tokens = tokenise(PAIRS, make(byte_tokenizer(max_length=512)), max_length=LONGEST)
        assert examples(tokens) == encoded(PAIRS, make(byte_tokenizer(max_length=512)))
    assert len(files(folder)) == 2


@pytest.mark.usefixtures("cached")
def test_special_tokens_that_are_read_as_text_use_a_different_file(folder: Path) -> None:
    rows = [Row(("a</s>b",), 0)]
    for split in (False, True):
        tokenizer = byte_tokenizer(max_length=512)
        tokenizer.split_special_tokens = split  # of tokenizer_config.json, not of the serialised backend
        assert examples(tokenise(rows, tokenizer, max_length=LONGEST)) == encoded(rows, tokenizer)
    assert len(files(folder)) == 2


@pytest.mark.usefixtures("cached")
def test_different_texts_or_length_use_a_different_file(folder: Path) -> None:
    a, b = Row(("ab", "c"), 0), Row(("d", "ef"), 1)
    sets = [[a], [b], [a, b], [b, a], [Row(("a", "bc"), 0)], [Row(("c", "ab"), 0)], [Row(("ab",), 0)]]
    tokenizer = byte_tokenizer(max_length=512)
    for rows in sets:
        for max_length in (6, 7):
            tokens = tokenise(rows, tokenizer, max_length=max_length)
            assert examples(tokens) == encoded(rows, tokenizer, max_length)
    assert len(files(folder)) == 2 * len(sets)


@pytest.mark.usefixtures("cached")
def test_labels_do_not_affect_the_file_name(folder: Path) -> None:
    tokenise([Row(("ab",), 0)], counting(), max_length=LONGEST)
    again = counting()
    tokenise([Row(("ab",), 1.5)], again, max_length=LONGEST)
    assert again.asked == 0 and len(files(folder)) == 1


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_a_different_library_version_uses_a_different_name(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    texts, tokenizer = {"text0": ["ab"]}, byte_tokenizer(max_length=512)
    before = fingerprint(texts, tokenizer, LONGEST)
    monkeypatch.setattr(getattr(tokenised, library), "__version__", "0")
    assert fingerprint(texts, tokenizer, LONGEST) != before


@pytest.mark.parametrize("options", [
    {"truncation": True, "max_length": 3}, {"padding": "max_length", "max_length": 30},
    {"truncation": True, "padding": True, "max_length": 5}, {},
], ids=str)  # fmt: skip
def test_the_name_does_not_depend_on_earlier_calls(options: dict[str, Any]) -> None:
    texts = {"text0": ["ab"]}
    fresh, used = byte_tokenizer(max_length=512), byte_tokenizer(max_length=512)
    used(["abcdef", "a"], **options)
    assert not options or used.backend_tokenizer.to_str() != fresh.backend_tokenizer.to_str()  # it keeps them
    assert fingerprint(texts, used, LONGEST) == fingerprint(texts, fresh, LONGEST)
    assert examples(tokenise(PAIRS, used, max_length=LONGEST)) == encoded(PAIRS, fresh)


class Undescribed:
    """A pure Python tokenizer, which cannot be serialised."""

    model_input_names = ("input_ids", "attention_mask")
    truncation_side = "right"

    def __call__(self, texts: list[str], *, truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        assert truncation
        ids = [[ord(letter) for letter in text][:max_length] for text in texts]
        return {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]}


@pytest.mark.usefixtures("cached")
def test_an_unserialisable_tokenizer_is_not_cached(folder: Path) -> None:
    tokenizer: Any = Undescribed()
    assert fingerprint({"text0": ["ab"]}, tokenizer, LONGEST) is None
    tokens = tokenise([Row(("ab",), 0), Row(("c",), 0)], tokenizer, max_length=LONGEST)
    assert examples(tokens) == {"input_ids": [[97, 98], [99]]}
    assert not folder.exists()


# Files


def nothing_left(_raw: bytearray) -> bytes:
    return b""


def another_kind(_raw: bytearray) -> bytes:
    return b"no tensors" * 500


def cut_short(raw: bytearray) -> bytes:
    return bytes(raw[: len(raw) // 2])


def a_page_of_zeros(raw: bytearray) -> bytes:
    """What a page that never reached the disk leaves."""
    start = header_size(raw)
    raw[start : start + 4096] = bytes(len(raw[start : start + 4096]))
    return bytes(raw)


def one_bit(raw: bytearray) -> bytes:
    raw[(header_size(raw) + len(raw)) // 2] ^= 1
    return bytes(raw)


def no_metadata(raw: bytearray) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(bytes(raw)))


def a_column_missing(raw: bytearray) -> bytes:
    tensors = safetensors.torch.load(bytes(raw))
    return safetensors.torch.save({"lengths": tensors["lengths"]}, metadata_of(raw))


def rows_missing(raw: bytearray) -> bytes:
    tensors = safetensors.torch.load(bytes(raw))
    count = int(tensors["lengths"][:9].sum())
    return safetensors.torch.save(
        {name: tensor[: 9 if name == "lengths" else count] for name, tensor in tensors.items()}, metadata_of(raw)
    )


def columns_that_are_not_json(raw: bytearray) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(bytes(raw)), {**metadata_of(raw), "columns": "["})


def columns_that_are_a_number(raw: bytearray) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(bytes(raw)), {**metadata_of(raw), "columns": "1"})


def header_size(raw: bytes | bytearray) -> int:
    return 8 + int.from_bytes(raw[:8], "little")


def metadata_of(raw: bytes | bytearray) -> dict[str, str]:
    return json.loads(raw[8 : header_size(raw)])["__metadata__"]


DAMAGES = (
    nothing_left, another_kind, cut_short, a_page_of_zeros, one_bit, no_metadata, a_column_missing, rows_missing,
    columns_that_are_not_json, columns_that_are_a_number,
)  # fmt: skip


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced_and_that_is_logged(
    folder: Path, damage: Callable[[bytearray], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    rows = SINGLES * 150  # more than one batch
    expected = copied(tokenise(rows, counting(), max_length=LONGEST))
    [path] = folder.glob("*.safetensors")
    good = path.read_bytes()
    path.write_bytes(damage(bytearray(good)))
    assert path.read_bytes() != good
    mending, after = counting(), counting()
    assert_equal(tokenise(rows, mending, max_length=LONGEST), expected)
    assert [message for message in caplog.messages if str(path) in message and "damaged" in message]
    caplog.clear()
    assert_equal(tokenise(rows, after, max_length=LONGEST), expected)
    assert mending.asked > after.asked == 0
    assert files(folder) == [path.name]
    assert not caplog.messages


@pytest.mark.usefixtures("cached")
def test_no_flipped_bit_is_ever_used(folder: Path) -> None:
    expected = copied(tokenise(SINGLES, counting(), max_length=LONGEST))
    [path] = folder.glob("*.safetensors")
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        raw = bytearray(good)
        raw[position] ^= 1 << position % 8
        path.write_bytes(raw)
        assert_equal(tokenise(SINGLES, counting(), max_length=LONGEST), expected)


@pytest.mark.usefixtures("cached")
def test_a_file_of_other_rows_is_not_used(folder: Path) -> None:
    tokenise(SINGLES, counting(), max_length=LONGEST)
    [first] = folder.glob("*.safetensors")
    expected = copied(tokenise(SINGLES[1:], counting(), max_length=LONGEST))
    [second] = set(folder.glob("*.safetensors")) - {first}
    second.write_bytes(first.read_bytes())
    assert_equal(tokenise(SINGLES[1:], counting(), max_length=LONGEST), expected)


def copied(tokens: Tokens) -> Tokens:
    return Tokens({name: column.clone() for name, column in tokens.columns.items()}, tokens.lengths.clone())


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_cache_that_cannot_be_written_ends_nothing(
    folder: Path, fault: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", refuse)
    tokens = tokenise(SINGLES, byte_tokenizer(max_length=512), max_length=LONGEST)
    assert examples(tokens) == encoded(SINGLES, byte_tokenizer(max_length=512))
    assert caplog.messages == [f"tokens are not cached, because {folder} cannot be written: {os.strerror(fault)}"]
    assert not files(folder)


@pytest.mark.usefixtures("cached")
def test_a_cache_folder_that_is_a_file_ends_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("in the way")
    tokens = tokenise(SINGLES, byte_tokenizer(max_length=512), max_length=LONGEST)
    assert examples(tokens) == encoded(SINGLES, byte_tokenizer(max_length=512))
    assert f"{folder} cannot be written" in caplog.text
    assert folder.read_text() == "in the way"


@pytest.mark.usefixtures("cached")
def test_a_user_without_a_home_folder_has_no_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ROSA_BENCH_CACHE", "~nobody-of-this-name/cache")
    tokens = tokenise(SINGLES, byte_tokenizer(max_length=512), max_length=LONGEST)
    assert examples(tokens) == encoded(SINGLES, byte_tokenizer(max_length=512))
    assert caplog.messages == [
        "tokens are not cached, because ~nobody-of-this-name/cache cannot be used: the user has no home folder"
    ]
    assert not folder.exists()


@pytest.mark.usefixtures("cached")
def test_a_folder_in_the_place_of_a_file_ends_nothing(folder: Path) -> None:
    key = fingerprint({"text0": [row.texts[0] for row in SINGLES]}, byte_tokenizer(max_length=512), LONGEST)
    (folder / f"{key}.safetensors/inside").mkdir(parents=True)
    tokens = tokenise(SINGLES, byte_tokenizer(max_length=512), max_length=LONGEST)
    assert examples(tokens) == encoded(SINGLES, byte_tokenizer(max_length=512))


@pytest.mark.usefixtures("cached")
def test_several_processes_can_write_the_same_file(folder: Path) -> None:
    rows, found = SINGLES * 200, []
    threads = [
        threading.Thread(target=lambda: found.append(tokenise(rows, counting(), max_length=LONGEST))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = Tokens.of(encoded(rows, byte_tokenizer(max_length=512)))
    assert len(found) == 4
    for tokens in found:
        assert_equal(tokens, expected)
    assert len(files(folder)) == 1
