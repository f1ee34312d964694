"""The page of ``rosa-bench report``, parsed by the standard library. See also test_page_in_browser.py."""

import gc
import gzip
import json
import os
import random
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.records.parts.mappings import Result
from rosa_bench.records.parts.measured import EpochScores, Scores
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import load_records, save_record
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.make_page import counted, header, make_report, page
from rosa_bench.report.page.answer import Verdict, tally
from rosa_bench.report.page.details import POINTS, Fact, curves_of, facts_of
from rosa_bench.report.page.packing import packed, packed_runs
from rosa_bench.report.page.run_list import FIELDS
from rosa_bench.report.page.script import library, page_script
from rosa_bench.report.tables.building.table import Column, Entry, Line, Section, Table
from rosa_bench.report.tables.paper import table2
from rosa_bench.report.writers.html import caption_html, fill, table_html
from rosa_bench.report.writers.markdown import CONTRAST_HEAD, column_text, contrast_texts, entry_text
from rosa_bench.system.errors import UserError

MakeRecord = Callable[..., RunRecord]
OverSeeds = Callable[..., list[RunRecord]]
HOSTILE = (
    """</script><script>alert(1)</script><!--<img src="http://example.org/x" onerror='alert(1)'>{{ 7 * 7 }} & "it" """
)


class Reader(HTMLParser):
    """A page's tags with their attributes, its tables' cells (table, row, cell), its scripts and its style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.styles: list[str] = []
        self.text = ""
        self._tag = ""
        self._is_cell = False
        self.feed(str(page))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._tag = tag
        match tag:
            case "table":
                self.tables.append([])
            case "tr":
                self.tables[-1].append([])
            case "th" | "td":
                self.tables[-1][-1].append("")
                self._is_cell = True
            case "script":
                self.scripts.append((attributes, ""))

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self._tag == "style":
            self.styles.append(data)
        else:
            self.text += data
            if self._is_cell:
                self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""
        self._is_cell = self._is_cell and tag not in ("th", "td")

    @property
    def packed(self) -> dict[str, bytes]:
        """What the page carries packed, by id."""
        return {
            attributes["id"].removeprefix("packed-"): gzip.decompress(b64decode(text, validate=True))
            for attributes, text in self.scripts
            if attributes.get("type") == "application/gzip"
        }


def unpacked(records: list[RunRecord]) -> dict[str, Any]:
    """Return what the page's script unpacks of the runs."""
    return json.loads(gzip.decompress(b64decode(packed_runs(records), validate=True)))


def column(content: dict[str, Any]) -> list[Any]:
    """Return every run's value of a packed column."""
    return [None if place < 0 else content["values"][place] for place in content["at"]]


def with_epochs(record: RunRecord, scores: list[float]) -> RunRecord:
    reported = record.scores.reported
    record.scores.epochs = [
        EpochScores(train_loss=1 / number, scores={reported: score, "loss": 2 / number}, time_s=1.0)
        for number, score in enumerate(scores, start=1)
    ]
    return record


def broken(record: RunRecord) -> RunRecord:
    """A record of a run that crashed in its first epoch."""
    record.status, record.error = "failed", "loss is nan at step 3"
    record.scores = Scores(reported=record.scores.reported)
    return record


@pytest.fixture
def records(make_record: MakeRecord, make_synthetic: MakeRecord, over_seeds: OverSeeds) -> list[RunRecord]:
    """Scores of two methods on two tasks, an error metric, a crashed run, and one that had not begun to train."""
    runs = [with_epochs(run, [0.1, 0.3, 0.2]) for run in over_seeds([0.61, 0.62, 0.63], held_out=0.5)]
    runs += over_seeds([0.51, 0.53, 0.52], "method=lora", held_out=0.5, deviations={"epochs": [3, 10]})
    runs += [
        make_record("task=rte", "method=ft", memory_bytes={"load": 1, "train": 300 << 20}, time_s={"total": 61.25})
    ]
    runs += [make_synthetic([[1.0, 0.5, 1e-7]], "method=lora", "rank=2")]
    runs += [broken(make_record("seed=9")), make_record("seed=8", status="interrupted", scores={}, parameters={})]
    return runs


@pytest.fixture(scope="module")
def made() -> list[Reader]:
    """The page of `records`, once it was made."""
    return []


@pytest.fixture
def reader(records: list[RunRecord], made: list[Reader]) -> Reader:
    """The page of `records`, made once: drawing figures takes seconds."""
    if not made:
        made.append(Reader(page(records)))
    return made[0]


# Contents


def test_every_run_is_in_the_list_with_every_field(records: list[RunRecord]) -> None:
    runs = unpacked(records)
    assert runs["ids"] == [run.id for run in records]
    assert [field["title"] for field in runs["fields"]] == [field.title for field in FIELDS]
    for field, values in zip(FIELDS, map(column, runs["fields"]), strict=True):
        shown = [value[0] if field.kind == "number" else value for value in values]
        assert shown == [field.shown(run) for run in records], field.title


def test_the_list_shows_the_values_of_the_record(records: list[RunRecord]) -> None:
    shown = {run.id: {field.title: field.shown(run) for field in FIELDS} for run in records}
    rosa, _, _, lora, _, _, fine_tuned, synthetic, failed, interrupted = shown.values()
    assert [rosa[name] for name in ("Task", "Model", "Method", "Rank", "Protocol", "Status")] == [
        "CoLA", "RoBERTa-base", "ROSA", "8", "paper", "completed",
    ]  # fmt: skip
    assert [rosa[name] for name in ("Metric", "Score", "Epoch", "Last", "Trainable")] == [
        "matthews correlation", "61.0", "7", "61.0", "627 k",
    ]  # fmt: skip
    assert rosa["Started"] == "2026-01-01 00:00"
    assert rosa["Variant"] == "ROSA r=8, lr=0.0006, seed=0"
    assert lora["Variant"] == "LoRA r=8, lr=6e-05, seed=0, epochs=3"
    assert [fine_tuned[name] for name in ("Rank", "Time (s)", "Memory (MiB)")] == ["–", "61.2", "300"]
    assert [synthetic[name] for name in ("Metric", "Score", "Epoch")] == ["mse", "1e-07", "3"]
    assert [failed[name] for name in ("Status", "Metric", "Score", "Epoch", "Last", "Memory (MiB)")] == [
        "failed", "matthews correlation", "–", "–", "–", "–",
    ]  # fmt: skip
    assert [interrupted[name] for name in ("Status", "Metric", "Score", "Trainable")] == [
        "interrupted", "matthews correlation", "–", "–",
    ]  # fmt: skip


def test_runs_that_trained_in_one_pass_have_no_time_and_no_memory_of_their_own(make_record: MakeRecord) -> None:
    run = make_record(time_s={"total": 61.25}, memory_bytes={"train": 300 << 20})
    run.packed = 3
    shown = {field.title: field.shown(run) for field in FIELDS}
    assert (shown["Time (s)"], shown["Memory (MiB)"]) == ("–", "–")
    facts = {(fact.group, fact.key): fact.text for fact in facts_of(run)}
    assert facts["Run", "packed"] == "3 runs in one pass; time and memory are of all of them"
    assert (facts["Time, s", "total"], facts["Peak memory, MiB", "train"]) == ("61.25", "300")


def test_details_have_what_only_some_runs_have(make_record: MakeRecord) -> None:
    run = make_record(resamples=4, forgetting={"task": "wikitext", "before": 3.5, "selected": 3.75, "last": 4.0})
    facts = {(fact.group, fact.key): fact.text for fact in facts_of(run)}
    assert facts["Run", "resamples"] == "4"
    assert facts["Forgetting", "selected"] == "3.75"
    assert not {key for group, key in facts if group == "Run"} & {"packed", "candidates", "chosen", "basis_age"}


def test_the_label_comes_first() -> None:
    assert [field.title for field in FIELDS][:2] == ["Variant", "Score"]


def test_numbers_sort_and_filter_by_value_regardless_of_unit(records: list[RunRecord]) -> None:
    runs = unpacked(records)
    numbers = {
        field["title"]: [number for _, number in column(field)] for field in runs["fields"] if field["kind"] == "number"
    }
    assert numbers.keys() == {field.title for field in FIELDS if field.kind == "number"}
    assert numbers["Trainable"] == [*["626688"] * 9, ""]
    assert numbers["Score"] == ["61", "62", "63", "51", "53", "52", "50", "1e-07", "", ""]


def test_a_count_has_all_its_digits(make_record: MakeRecord) -> None:
    [field] = [field for field in FIELDS if field.title == "Trainable"]
    assert field.number(make_record(trainable=1_234_567_890)) == "1234567890"


def test_all_verdicts_are_on_the_page_the_first_six_at_once() -> None:
    some = [Verdict(period=f"period {n}", verdict="is behind", difference="-1", where="CoLA") for n in range(8)]
    empty = dict.fromkeys(("policy", "library", "library_style", "script", "counts", "runs", "headline", "best"), "")
    rest: dict[str, Any] = {"figures": [], "tables": [], "choices": [], "header": {}, "fields": FIELDS}
    text = fill("page.html", **empty, **rest, verdicts=some, tally=tally(some))
    first, found, more = text.partition("<details><summary>2 more</summary>")
    assert [one.period in first for one in some] == [True] * 6 + [False] * 2
    assert found and all(one.period in more for one in some[6:])
    assert "8 comparisons, most seeds first: ROSA is ahead of LoRA in 0, level in 0, behind in 8." in first


def test_the_packed_runs_have_every_fact_and_curve(records: list[RunRecord]) -> None:
    runs = unpacked(records)
    columns = [(fact, column(fact)) for fact in runs["facts"]]
    titles = [(curve["title"], column(curve["epochs"]), curve["values"]) for curve in runs["curves"]]
    for number, run in enumerate(records):
        found = {
            Fact(one["group"], one["key"], *values[number]) for one, values in columns if values[number] is not None
        }
        assert found == set(facts_of(run))
        drawn = [(title, epochs[number], values[number]) for title, epochs, values in titles if values[number]]
        assert drawn == [tuple(curve) for curve in curves_of(run)]
    assert runs["selected"] == [7] * 7 + [3, None, None]


def test_details_have_every_setting_and_all_provenance(make_record: MakeRecord) -> None:
    run = make_record(
        "method=rosa",
        "lr=0.00123",
        "method.resample_every=7",
        deviations={"method.resample_every": [7.0, 2.0]},
        data={"subset": True, "fingerprint": "f" * 64},
        model={"source": "wheel", "sha256": ["a" * 64]},
        versions={"torch": "2.99"},
        git={"commit": "c" * 40, "dirty": True},
        time_s={"load": 1.5, "total": 61.25},
        memory_bytes={"train": 300 << 20},
    )
    facts = facts_of(run)
    shown = {fact.key: fact.text for fact in facts}
    for key, words in {
        "source": "wheel", "sha256": f"[{'a' * 64}]", "fingerprint": "f" * 64, "subset": "true", "rows.held_out": "0",
        "synthetic": "false", "commit": "c" * 40, "dirty": "true", "torch": "2.99", "total": "61.25", "train": "300",
        "trainable": "626688", "matthews_correlation": "0.5", "selected_on": "validation", "reported_on": "dev",
        "lr": "0.00123", "seed": "0", "epochs": "10", "task.hub.path": "nyu-mll/glue", "method.name": "rosa",
        "method.resample_every": "7",
    }.items():  # fmt: skip
        assert shown[key] == words, key
    assert Fact("Device", "name", "NVIDIA H200") in facts
    assert [(fact.key, fact.expected) for fact in facts if fact.expected is not None] == [
        ("method.resample_every", "2")
    ]
    for key, value in run.config.items():
        for setting in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
            assert any(f"{name}.".startswith(f"{setting}.") for name in shown), setting


def test_a_crashed_run_has_its_error_and_no_curve(records: list[RunRecord]) -> None:
    runs = unpacked(records)
    assert column(runs["errors"])[-2:] == ["loss is nan at step 3", None]
    for run in records[-2:]:
        assert curves_of(run) == []
        assert any(fact.group == "Settings" for fact in facts_of(run))


def test_curves_have_the_values_of_the_epochs(records: list[RunRecord]) -> None:
    assert curves_of(records[0]) == [
        ("training loss", [1, 2, 3], [1, 0.5, 0.33333]),
        ("loss on rows held out of train", [1, 2, 3], [2, 1, 0.66667]),
        ("matthews correlation on rows held out of train", [1, 2, 3], [10, 30, 20]),
    ]


def test_a_value_that_is_not_finite_is_a_gap(make_record: MakeRecord) -> None:
    run = with_epochs(make_record(held_out=0.5), [0.1, 0.2, 0.3])
    run.scores.epochs[1].train_loss, run.scores.epochs[2].scores = None, {}
    training, loss, score = curves_of(run)
    assert training.values == [1, None, 0.33333]
    assert (loss.values, score.values) == ([2, 1, None], [10, 20, None])


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_the_selected_epoch(make_record: MakeRecord) -> None:
    run = with_epochs(make_record(), [0.5] * 1000)
    run.scores.selected = Result({**run.selected, "epoch": 501})
    [epochs] = {tuple(curve.epochs) for curve in curves_of(run)}
    assert {1, 501, 1000} <= set(epochs)
    assert len(epochs) <= POINTS + 3
    assert sorted(set(epochs)) == list(epochs)


def test_the_answer_comes_first_and_the_contents_link_to_all_parts(reader: Reader) -> None:
    ids = [attributes["id"] for tag, attributes in reader.tags if tag == "section" and "table-" not in attributes["id"]]
    assert ids == ["answer", "figures", "tables", "all-runs"]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a" and attributes["href"][:1] == "#"]
    there = {f"#{attributes['id']}" for _, attributes in reader.tags if "id" in attributes}
    assert {f"#{name}" for name in ids} <= set(links) <= there


def test_figures_are_packed_pictures_with_a_description(reader: Reader) -> None:
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert pictures
    for picture in pictures:
        svg = reader.packed[picture["data-packed"].removeprefix("packed-")]
        assert svg.startswith(b"<?xml")
        assert picture["alt"]
        assert (int(picture["width"]), int(picture["height"])) > (100, 100)


def test_missing_parts_are_left_out(records: list[RunRecord]) -> None:
    reader = Reader(page(records[-2:]))
    assert "2 runs: 1 failed, 1 interrupted" in reader.text
    ids = {attributes.get("id") for _, attributes in reader.tags}
    assert {"answer", "all-runs"} <= ids
    missing = {"tables", "figures", "choices"}
    assert not ids & missing
    linked = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert not linked & {f"#{name}" for name in missing}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["completed"], "1 run: 1 completed"),
        (["failed", "completed", "running", "failed"], "4 runs: 1 completed, 2 failed, 1 running"),
    ],
)
def test_counted_by_status(make_record: MakeRecord, statuses: list[str], expected: str) -> None:
    assert counted([make_record(status=status) for status in statuses]) == expected


def test_thousands_are_separated_as_in_the_list(make_record: MakeRecord) -> None:
    assert counted([make_record()] * 1234) == "1,234 runs: 1,234 completed"


def test_the_head_says_when_and_by_which_versions(make_record: MakeRecord) -> None:
    dates = ("2026-03-01T23:00:00+00:00", "2026-01-31T01:00:00+00:00")
    runs = [
        make_record(f"seed={seed}", started_at=date, versions={"torch": f"2.{seed}", "python": "3.11"})
        for seed, date in enumerate(dates)
    ]
    said = header(runs)
    assert said["Started"] == "2026-01-31 to 2026-03-01"
    assert said["Versions"] == "torch 2.0, 2.1; python 3.11"


# A single file, with all text escaped


def test_nothing_is_fetched(reader: Reader) -> None:
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    for style in [*reader.styles, *(attributes.get("style", "") for _, attributes in reader.tags)]:
        assert "@import" not in style
        assert all(target.lstrip("'\"").startswith("data:") for target in re.findall(r"url\(\s*([^)]*)", style))
    assert "http" not in policy_of(reader)


def policy_of(reader: Reader) -> str:
    [policy] = [it["content"] for tag, it in reader.tags if it.get("http-equiv") == "Content-Security-Policy"]
    return policy


def test_only_the_pages_own_script_may_run(reader: Reader) -> None:
    [(attributes, script)] = [one for one in reader.scripts if one[0]["type"] != "application/gzip"]
    assert attributes == {"type": "module"}
    rules = {name: rest for name, _, rest in (rule.strip().partition(" ") for rule in policy_of(reader).split(";"))}
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [f"'sha256-{digest}'", "blob:"]


def test_the_script_never_makes_markup_of_text() -> None:
    script = page_script()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "parseFromString",
    ):
        assert way not in script, way


def hostile(make_record: MakeRecord, words: str) -> RunRecord:
    """A run with ``words`` in every field that may hold any text; an id or a name may not."""
    values = to_values(make_record(id="odd", error=words, deviations={"limit_train": [words, words]}))
    for group in ("task", "model", "method", "protocol"):
        values["config"][group]["title"] = words
    values["config"]["model"]["note"] = values["config"]["task"]["folder"] = words
    values["device"] |= {"name": words}
    values["model"] |= {"id": words}
    values["data"] |= {"source": words, "fingerprint": words}
    values["versions"] |= {words: words}
    values["scores"] |= {"signature": words}
    run = with_epochs(from_values(values), [0.1, 0.2])
    run.scores.epochs[0].scores[words] = 0.5
    return run


def test_no_text_of_a_record_becomes_markup(make_record: MakeRecord) -> None:
    runs = [hostile(make_record, words) for words in ("plain", HOSTILE)]
    plain, strange = (Reader(page([run])) for run in runs)

    def skeleton(reader: Reader) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in reader.tags]

    assert skeleton(strange) == skeleton(plain)
    packed = unpacked(runs[1:])
    assert any(HOSTILE.strip() in str(value) for field in packed["fields"] for value in column(field))
    assert column(packed["errors"]) == [HOSTILE]
    assert "49" not in packed["errors"]["values"]


def test_a_caption_may_only_have_emphasis_lists_and_tables() -> None:
    odd = "![picture](http://x.org/a.png) <http://x.org> <b>"
    caption = f"**Bold** [link](http://x.org) {odd}\n\n- one\n\n| a |\n| - |\n| b |"
    reader = Reader(caption_html(caption))
    assert {tag for tag, _ in reader.tags} == {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert reader.tables == [[["a"], ["b"]]]
    assert odd in reader.text


# Tables


def test_html_cells_have_the_same_text_as_markdown(over_seeds: OverSeeds) -> None:
    runs = over_seeds([0.61, 0.62, 0.63]) + over_seeds([0.31, 0.32, 0.36], "method=lora")
    runs += over_seeds([0.5], "method=lora", "lr=1") + over_seeds([0.7], "task=rte", "method=bitfit")
    table = table2.build(select(runs))
    [section] = [one.filled for one in table.sections]
    figures, contrasts = Reader(table_html(table)).tables
    assert figures == [
        ["Method", *map(column_text, section.columns)],
        *(
            [line.label, *(entry_text(*pair) for pair in zip(line.entries, section.columns, strict=True))]
            for line in section.lines
        ),
    ]
    assert contrasts == [list(CONTRAST_HEAD), *map(contrast_texts, section.contrasts)]
    assert len(contrasts) == 2


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize(
    "entry",
    [
        Entry(),
        Entry(mean="1.0", count=1),
        Entry(mean="1.0", spread="0.5", count=2, mark="†", paper="2", best=True),
        Entry(paper="2"),
        Entry(mean="768"),
    ],
)
def test_a_cell(entry: Entry, paper: bool) -> None:
    column = Column(title="CoLA", note=1, paper=paper)
    section = Section(
        heading="h",
        header={"Seeds": "2"},
        columns=[column],
        lines=[Line(label="FT", entries=[entry]), Line(label="LoRA", entries=[Entry(mean="2.0")])],
        notes=["1 a note"],
    )
    text = table_html(Table(name="t", title="t", intro=[], sections=[section], tidy=[]))
    reader = Reader(text)
    shown = [["FT", entry_text(entry, column)]] if entry.mean else []  # rows without a figure of ours are left out
    assert reader.tables == [[["Method", "CoLA¹"], *shown, ["LoRA", "2.0"]]]
    assert "¹ a note" in reader.text
    assert re.findall("<b>(.*?)</b>", text) == (["1.0"] if entry.best else [])


# The command


def test_the_command_prints_what_it_wrote(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in records:
        save_record(run, tmp_path)
    make_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "runs"]
    assert capsys.readouterr().out == (
        f"10 runs: 8 completed, 1 failed, 1 interrupted, written to {tmp_path / 'report.html'}\n"
    )


def test_no_run_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no runs; run something first.*results_dir=") as caught:
        make_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["itables", "jinja2", "markdown_it"])
def test_a_missing_package_is_named_with_its_install_command(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    save_record(make_record(), tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'needs {package}; .*pip install "rosa-bench\[report\]"') as caught:
        make_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_command_does_not_import_torch_and_the_same_records_give_the_same_file(  # in another process and order
    records: list[RunRecord], tmp_path: Path
) -> None:
    for run, again in zip(records, reversed(records), strict=True):
        save_record(run, tmp_path / "res")
        save_record(again, tmp_path / "reversed")
    heavy = ("torch", "transformers", "datasets", "evaluate")
    program = (
        "import sys\n"
        "sys.argv = ['rosa-bench', 'report', 'results_dir=res']\n"
        "from rosa_bench.cli.main import main\n"
        "main()\n"
        f"print('imported:', [name for name in {heavy} if name in sys.modules])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert (tmp_path / "res/report.html").read_text(encoding="utf-8") == page(load_records(tmp_path / "reversed"))


def test_the_details_of_many_runs_are_never_in_memory_together(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, alive = with_epochs(make_record(), [0.5]), []

    def counted(run: RunRecord) -> list[Fact]:
        alive.append(sum(type(it) is Fact for it in gc.get_objects()))
        return facts_of(run)

    monkeypatch.setattr("rosa_bench.report.page.packing.facts_of", counted)
    packed_runs([run] * 5)
    assert len(alive) == 5 and max(alive) < 2 * len(facts_of(run))


def test_two_thousand_runs_are_under_five_megabytes(make_record: MakeRecord) -> None:
    """The parts that grow with the runs, and DataTables. Tables and figures add about one and a half megabytes."""
    draw = random.Random(0)
    runs = []
    for number in range(80):
        run = make_record(f"seed={number}", f"lr={draw.random():.3g}", f"method={draw.choice(['lora', 'rosa', 'ft'])}")
        runs.append(with_epochs(run, [draw.random() for _ in range(30)]))
    few, many = len(packed_runs(runs[:40])), len(packed_runs(runs))
    assert 50 * (many - few) < 2e6
    assert len(packed(library()[0])) + len(library()[1]) < 1e6
