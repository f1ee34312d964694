"""Text of a record stays text in every output: Markdown, LaTeX, CSV, terminal, captions and pictures."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from markdown_it import MarkdownIt

from rosa_bench.records.mistake import mistake_in
from rosa_bench.records.record import RunRecord, from_values
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.report.figures.drawing import drawn
from rosa_bench.report.page.choices import recommended
from rosa_bench.report.writers.card import Export, model_card
from rosa_bench.report.writers.latex import escape
from rosa_bench.report.writers.tidy_csv import tidy_csv
from rosa_bench.system.text.printable import printable

Values = list[dict[str, Any]]
Makers = dict[str, Callable[[list[RunRecord]], dict[str, str | bytes]]]
SETTINGS = ("name", "train", "validation", "test", "score")  # of a task: with others, it is not the task any more
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours, which the terminal writer itself sets


def texts(values: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yield the places of texts that say nothing about which runs belong together."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        if isinstance(value, str) and key not in (*SETTINGS, "reported", "selected_on"):
            yield (*at, key)
        yield from texts(value, (*at, key))


def with_text(values: dict[str, Any], text: str) -> tuple[RunRecord, int]:
    """Return the record with ``text`` in every field that may hold it, and their number."""
    record, count = from_values(values), 0
    for at in texts(values):
        changed = json.loads(json.dumps(values))
        place = changed
        for key in at[:-1]:
            place = place[key]
        place[at[-1]] = text
        try:
            found = from_values(changed)
        except msgspec.ValidationError:
            continue
        if mistake_in(found) is None:
            record, values, count = found, changed, count + 1
    return record, count


def with_metric(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a record's values with another name of its score, if a record may have it."""
    changed = json.loads(json.dumps(values).replace(json.dumps(values["scores"]["reported"]), json.dumps(name)))
    try:
        return values if mistake_in(from_values(changed)) else changed
    except msgspec.ValidationError:
        return values


def tokens(text: str) -> list[str]:
    reader = MarkdownIt("commonmark").enable("table")
    found = reader.parse(text)
    return [one.type for token in found for one in (token, *(token.children or ()))]


def written(makers: Makers, values: Values, text: str) -> dict[str, str]:
    """Return the tables of one run of every kind of task, each with ``text`` in all its fields."""
    kinds = {record["config"]["task"]["name"]: record for record in reversed(values)}
    found = [with_text(record, text) for record in kinds.values()]
    assert all(count >= 20 for _, count in found), [count for _, count in found]
    return {name: str(made) for name, made in makers["tables"]([record for record, _ in found]).items()}


def test_no_text_of_a_record_becomes_anything_else(
    hostile_texts: tuple[str, ...], makers: Makers, values: Values
) -> None:
    plain = written(makers, values, "plain")
    assert {"table2.md", "table3.tex", "regression.csv", "runs.csv", "regression.terminal"} <= plain.keys()
    for text in hostile_texts:
        made = written(makers, values, text)
        assert made.keys() == plain.keys()
        for name, output in made.items():
            shown = ESCAPES.sub("", output) if name.endswith("terminal") else output
            assert shown.replace("\n", "") == printable(shown.replace("\n", "")), (name, text)
            if name.endswith(".md"):
                assert set(tokens(output)) <= set(tokens(plain[name])), (name, text)
                assert tokens(output).count("tr_open") == tokens(plain[name]).count("tr_open"), (name, text)
            if name.endswith(".tex"):
                commands = set(re.findall(r"\\[A-Za-z]+", output))
                known = {
                    rf"\{one}" for one in re.findall(r"[A-Za-z]+", "".join(map(escape, '\\{}$&#%_~^<>"|±×–³†‡§¶')))
                }
                assert commands <= {*re.findall(r"\\[A-Za-z]+", plain[name]), *known}, (name, text)
            if name.endswith(".csv"):
                rows, others = (list(csv.reader(io.StringIO(one))) for one in (output, plain[name]))
                assert [len(row) for row in rows] == [len(row) for row in others], (name, text)
                assert output.count("\n") == len(rows), (name, text)
                for cell in (cell for row in rows for cell in row):
                    assert not re.match(r"\s*[=+@-]", cell) or float(cell) < 0, (name, text, cell)


def test_no_text_of_a_record_becomes_markup_or_metadata_of_a_model_card(
    hostile_texts: tuple[str, ...], values: Values
) -> None:
    record = next(one for one in values if one["config"]["task"]["name"] == "cola" and one["status"] == "completed")
    record = record | {"deviations": {"method.rank": ["mine", "theirs"]}}

    def card(text: str) -> tuple[dict[str, Any], list[str], int]:
        """Return the card's metadata for a run with this text everywhere, the kinds of markup, and how many changes."""
        deviations = {f"m{text}".translate(dict.fromkeys(range(32))): [text, text]}
        changed = msgspec.structs.replace(with_text(with_metric(record, text), text)[0], deviations=deviations)
        made = model_card(changed, [changed], Export("peft", "SEQ_CLS", text or None, (text,)))
        head, _, body = made.removeprefix("---\n").partition("\n---\n")
        assert body.replace("\n", "") == printable(body.replace("\n", "")), text
        return yaml.safe_load(head), tokens(body), len(changes_of(changed))

    metadata, markup, rows = card("plain")
    assert {"base_model", "datasets", "model-index", "tags"} <= metadata.keys() and "th_open" in markup
    for text in hostile_texts:
        found, kinds, changes = card(text)
        assert found.keys() <= metadata.keys(), text
        assert {kind for kind in kinds if kind != "text"} <= set(markup), text
        for kind, each in (("tr_open", 1), ("td_open", 3), ("heading_open", 0), ("list_item_open", 0)):
            assert kinds.count(kind) - each * changes == markup.count(kind) - each * rows, (text, kind)


def test_no_text_of_an_answer_becomes_a_link_a_picture_or_a_script(
    tmp_path: Path, hostile_texts: tuple[str, ...]
) -> None:
    (tmp_path / "choose").mkdir()
    for text in hostile_texts:
        (tmp_path / "choose/odd.md").write_text(f"# {text}\n\n{text}\n\n- {text}\n", encoding="utf-8")
        for found in recommended(tmp_path):
            shown = str(found.answer).lower()
            assert not any(tag in shown for tag in ("<a", "<img", "<script", "<svg", "\x1b", "\u202e")), text


def test_rows_may_have_different_keys() -> None:
    assert tidy_csv([{"a": "1"}, {"a": "2", "b": "3"}, {"b": "4"}]) == "a,b\n1,\n2,3\n,4\n"


def test_a_formula_is_marked_and_a_number_is_not() -> None:
    cells = ["=1+1", "+x", "-x", "@x", " =1", "\t=1", "\uff1d1", "-2.1", "+3", "-1e-5", "a=1", "", "-", "-1-1", "1\n2"]
    [row] = list(csv.reader(io.StringIO(tidy_csv([dict(enumerate(cells))]).split("\n", 1)[1])))  # pyrefly: ignore[bad-argument-type]
    assert row == [
        "'=1+1", "'+x", "'-x", "'@x", "' =1", "'\\t=1", "'\uff1d1", "-2.1", "+3", "-1e-5", "a=1", "", "'-", "'-1-1",
        "1\\n2",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), [
    ("é — 漢 😀", "é — 漢 😀"),
    ("a\u00a0b", "a\u00a0b"),
    ("a\nb\r\tc", r"a\nb\r\tc"),
    ("\x1b[2J\x9b", r"\x1b[2J\x9b"),
    ("\u202e\u2066\u200f\u2028\ufeff", r"\u202e\u2066\u200f\u2028\ufeff"),
    ("\x00", r"\x00"),
])  # fmt: skip
def test_characters_that_cannot_be_seen_are_written_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text, keep="\n\r\t").count("\n") == text.count("\n")


def test_every_picture_shows_dollars_and_underscores_as_they_are(hostile_texts: tuple[str, ...]) -> None:
    from matplotlib.text import Text

    for text in hostile_texts:
        label = drawn(text)
        assert not label.startswith("_")  # matplotlib leaves such labels out of legends
        is_formula = Text(0, 0, label)._preprocess_math(label)[1]  # pyrefly: ignore[missing-attribute]
        assert is_formula is False


def test_a_picture_shows_what_its_font_lacks_as_escapes() -> None:
    assert drawn("é — × β 漢 🦊") == r"é — × β \u6f22 \U0001f98a"


@pytest.mark.slow
def test_figures_of_hostile_texts_are_drawn(makers: Makers, values: Values) -> None:
    kinds = {record["config"]["task"]["name"]: record for record in reversed(values)}
    for text in ("_$\\frac{$ $a$", "\x1b[2J\n\u202e 漢 😀"):
        made = makers["figures"]([with_text(record, text)[0] for record in kinds.values()])
        assert {"figure2.svg", "figure3.svg", "figure6.svg"} <= made.keys()
        for name, output in made.items():
            if name.endswith(".md"):
                assert not {"html_inline", "link_open", "image"} & set(tokens(str(output)))
                assert str(output).replace("\n", "").isprintable() or "\u00a0" in str(output)


def test_a_name_or_an_id_cannot_be_a_path(values: Values) -> None:
    for name in ("../../../escape", "a/b", "/etc/passwd", "..", ".hidden", "-rf", "a\nb", "", "x" * 300):
        for group in ("task", "model", "method", "protocol"):
            changed = json.loads(json.dumps(values[0]))
            changed["config"][group]["name"] = name
            with pytest.raises(msgspec.ValidationError, match=rf"\.{group}\.name.*\.config"):
                from_values(changed)
        with pytest.raises(msgspec.ValidationError, match=r"\.id"):
            from_values({**values[0], "id": name})
        with pytest.raises(msgspec.ValidationError, match=r"\.generations"):
            from_values({**values[0], "scores": {**values[0]["scores"], "generations": name}})
