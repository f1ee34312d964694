import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosa_bench.records.generations import Generation, path, read, save, to_lines
from rosa_bench.records.store import load_records, runs_folder, superseded_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic

# Line separators besides "\n", a byte order mark, and other text that a model may write.
texts = st.one_of(
    st.text(max_size=9), st.sampled_from(["", "a\nb", "a\r\n", "\u2028", "\x85", "\ufeff", "Café £20", '"\\'])
)
generations = st.builds(
    Generation,
    prompt=texts,
    output=texts,
    references=st.lists(texts.filter(str.strip), min_size=1, max_size=3).map(tuple),
)
GOOD = {"prompt": "name[Blue Spice]", "output": "Blue Spice.", "references": ["Blue Spice."]}


@given(st.lists(generations, min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_generations_are_read_back(tmp_path: Path, rows: list[Generation]) -> None:
    write_atomic(tmp_path / "rows.jsonl", to_lines(rows))
    assert read(tmp_path / "rows.jsonl") == rows


def test_a_line_is_a_readable_object_with_three_keys() -> None:
    row = Generation(prompt="name[Café]", output="a\nb", references=("Café", "c"))
    line = to_lines([row, row]).splitlines()
    assert line == ['{"prompt": "name[Café]", "output": "a\\nb", "references": ["Café", "c"]}'] * 2


@pytest.mark.parametrize("text", [
    json.dumps(GOOD),  # no line end
    json.dumps(GOOD) + "\r\n",
    json.dumps({"id": 3, **GOOD, "model": None}) + "\n",
])  # fmt: skip
def test_a_file_from_elsewhere_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(text.encode())
    assert read(tmp_path / "rows.jsonl") == [
        Generation(prompt="name[Blue Spice]", output="Blue Spice.", references=("Blue Spice.",))
    ]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(("line", "reason"), [
    ("Blue Spice.", "not JSON"),
    ("", "not JSON"),
    (json.dumps(GOOD)[:-1], "not JSON"),
    (json.dumps([GOOD]), "not a JSON object with prompt, output and references"),
    (json.dumps("prompt"), "not a JSON object with prompt, output and references"),
    *((json.dumps(without(key)), f"there is no {key}") for key in GOOD),
    (json.dumps({**GOOD, "prompt": None}), "prompt is not a string"),
    (json.dumps({**GOOD, "output": 3}), "output is not a string"),
    (json.dumps({**GOOD, "references": "Blue Spice."}), "references is not a list"),
    (json.dumps({**GOOD, "references": ["Blue Spice.", None]}), "references are not all strings"),
    (json.dumps({**GOOD, "references": []}), "there are no references"),
    (json.dumps({**GOOD, "references": ["Blue Spice.", " \n"]}), "a reference is blank"),
])  # fmt: skip
def test_a_bad_line_is_reported_with_its_file_and_number(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{file}, line 2: ") + f".*{re.escape(reason)}"):
        read(file)


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b'{"prompt": "\xff"}\n', "is not UTF-8 text")])
def test_an_empty_or_undecodable_file_is_reported(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"rows\.jsonl {reason}"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("references", [(), ("",), ("a", "\t")])
def test_a_generation_that_could_not_be_read_back_is_rejected(references: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="reference"):
        Generation(prompt="a", output="b", references=references)


def test_generations_are_next_to_the_record_and_not_mistaken_for_one(tmp_path: Path) -> None:
    folder = runs_folder(tmp_path) / "e2e" / "gpt2"
    place = path(folder / "e2e-gpt2-rosa-r8-lr0.002-s0-0123456789.json")
    assert place == folder / "e2e-gpt2-rosa-r8-lr0.002-s0-0123456789.generations.jsonl"
    write_atomic(place, to_lines([Generation(prompt="a", output="b", references=("c",))]))
    assert load_records(tmp_path) == []


def test_replaced_generations_are_kept(tmp_path: Path) -> None:
    record, written = (
        runs_folder(tmp_path) / "a" / "b" / "a-run.json",
        [[Generation(prompt="a", output=f"{number}", references=("c",))] for number in range(4)],
    )
    for rows in written:
        place = save(rows, record, tmp_path)
        assert place == path(record)
        assert read(place) == rows
    aside = sorted(superseded_folder(tmp_path).iterdir())
    assert [one.name for one in aside] == [f"a-run-{number}.generations.jsonl" for number in (1, 2, 3)]
    assert [read(one) for one in aside] == written[:3]
