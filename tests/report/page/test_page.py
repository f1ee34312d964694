"""The page of ``rosa-bench report``, parsed by the standard library. See also test_page_in_browser.py."""

import gzip
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from rosa_bench.records.measured import EpochScores, Scores
from rosa_bench.records.record import RunRecord, from_values, to_values
from rosa_bench.records.store import load_records, save_record
from rosa_bench.report.cells.select import select
from rosa_bench.report.make_page import counted, make_report, page
from rosa_bench.report.page.details import details_html
from rosa_bench.report.page.run_list import FIELDS
from rosa_bench.report.tables import table2
from rosa_bench.report.tables.table import Column, Entry, Line, Section, Table
from rosa_bench.report.writers.html import caption_html, table_html
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
    def details(self) -> "dict[str, Reader]":
        """Details of each run, keyed by id."""
        return {
            attributes["id"].removeprefix("run:"): Reader(gzip.decompress(b64decode(text, validate=True)).decode())
            for attributes, text in self.scripts
            if attributes.get("type") == "application/gzip"
        }


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


# Contents


def test_every_run_is_in_the_list_with_every_field(records: list[RunRecord]) -> None:
    reader = Reader(page(records))
    head, *rows = reader.tables[-1]
    assert head == [field.title for field in FIELDS]
    assert rows == [[field.shown(run) for field in FIELDS] for run in records]


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
    assert lora["Deviations"] == "epochs=3"
    assert [fine_tuned[name] for name in ("Rank", "Time (s)", "Memory (MiB)")] == ["–", "61.2", "300"]
    assert [synthetic[name] for name in ("Metric", "Score", "Epoch")] == ["mse", "1e-07", "3"]
    assert [failed[name] for name in ("Status", "Metric", "Score", "Epoch", "Last", "Memory (MiB)")] == [
        "failed", "matthews correlation", "–", "–", "–", "–",
    ]  # fmt: skip
    assert [interrupted[name] for name in ("Status", "Metric", "Score", "Trainable")] == [
        "interrupted", "matthews correlation", "–", "–",
    ]  # fmt: skip


def test_numbers_sort_and_filter_by_value_regardless_of_unit(records: list[RunRecord]) -> None:
    reader = Reader(page(records))
    found = [attributes for tag, attributes in reader.tags if tag == "td" and "data-order" in attributes]
    numbers = [field.title for field in FIELDS if field.kind == "number"]
    assert len(found) == len(records) * len(numbers)
    assert all(cell["data-order"] == cell["data-search"] for cell in found)
    trainable = [cell["data-order"] for cell in found][numbers.index("Trainable") :: len(numbers)]
    assert trainable == [*["626688"] * 9, ""]
    scores = [cell["data-order"] for cell in found][numbers.index("Score") :: len(numbers)]
    assert scores == ["61", "62", "63", "51", "53", "52", "50", "1e-07", "", ""]


def test_every_runs_link_opens_its_details(records: list[RunRecord]) -> None:
    reader = Reader(page(records))
    assert list(reader.details) == [run.id for run in records]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a" and "run:" in attributes["href"]]
    assert [unquote(link).removeprefix("#run:") for link in links] == [run.id for run in records]


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
    shown = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", details_html(run)))
    for key, words in {
        "source": "wheel", "sha256": f"[{'a' * 64}]", "fingerprint": "f" * 64, "subset": "true", "rows.held_out": "0",
        "synthetic": "false", "commit": "c" * 40, "dirty": "true", "torch": "2.99", "total": "61.25", "train": "300",
        "trainable": "626688", "name": "NVIDIA H200", "matthews_correlation": "0.5", "selected_on": "validation",
        "lr": "0.00123", "seed": "0", "epochs": "10", "task.hub.path": "nyu-mll/glue", "method.name": "rosa",
        "method.resample_every": '<mark>7</mark> <span class="quiet">(protocol: 2)</span>',
    }.items():  # fmt: skip
        assert shown[key] == words, key
    for key, value in run.config.items():
        for setting in [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]:
            assert any(f"{name}.".startswith(f"{setting}.") for name in shown), setting


def test_details_of_a_crashed_run_say_why(records: list[RunRecord]) -> None:
    failed, interrupted = Reader(details_html(records[-2])), Reader(details_html(records[-1]))
    assert "loss is nan at step 3" in failed.text
    for reader in (failed, interrupted):
        assert "Settings" in reader.text
        assert not any(tag == "svg" for tag, _ in reader.tags)


def test_curves_show_the_values_of_the_epochs(records: list[RunRecord]) -> None:
    reader = Reader(details_html(records[0]))
    drawn = [attributes["aria-label"] for tag, attributes in reader.tags if tag == "svg"]
    assert drawn == [
        "training loss against epochs",
        "loss on rows held out of train against epochs",
        "matthews correlation on rows held out of train against epochs",
    ]
    assert re.findall(r"epoch \d: [\d.]+", reader.text) == [
        *("epoch 1: 1", "epoch 2: 0.5", "epoch 3: 0.33333"),
        *("epoch 1: 2", "epoch 2: 1", "epoch 3: 0.66667"),
        *("epoch 1: 10", "epoch 2: 30", "epoch 3: 20"),
    ]


def test_tables_and_figures_come_before_the_list(records: list[RunRecord]) -> None:
    text = page(records)
    places = [
        text.index(part)
        for part in ("Table 2: ", "<figcaption", ">All runs</h2>", 'id="runs"', 'type="application/gzip"')
    ]
    assert places == sorted(places)
    pictures = [attributes["src"] for tag, attributes in Reader(text).tags if tag == "img"]
    assert pictures
    for picture in pictures:
        kind, _, data = picture.partition(",")
        assert kind == "data:image/png;base64"
        assert b64decode(data, validate=True).startswith(b"\x89PNG\r\n\x1a\n")


def test_missing_parts_are_left_out(records: list[RunRecord]) -> None:
    reader = Reader(page(records[-2:]))
    assert "2 runs: 0 completed, 1 failed, 1 interrupted" in reader.text
    ids = {attributes.get("id") for _, attributes in reader.tags}
    assert "all-runs" in ids
    assert not ids & {"tables", "figures"}
    linked = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert not linked & {"#tables", "#figures"}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["completed"], "1 run: 1 completed, 0 failed, 0 interrupted"),
        (["failed", "completed", "failed"], "3 runs: 1 completed, 2 failed, 0 interrupted"),
    ],
)
def test_counted(make_record: MakeRecord, statuses: list[str], expected: str) -> None:
    assert counted([make_record(status=status) for status in statuses]) == expected


def test_the_head_says_when_and_by_which_versions(make_record: MakeRecord) -> None:
    dates = ("2026-03-01T23:00:00+00:00", "2026-01-31T01:00:00+00:00")
    runs = [
        make_record(f"seed={seed}", started_at=date, versions={"torch": f"2.{seed}", "python": "3.11"})
        for seed, date in enumerate(dates)
    ]
    text = Reader(page(runs)).text
    assert "2026-01-31 to 2026-03-01" in text
    assert "torch 2.0, 2.1; python 3.11" in text


# A single file, with all text escaped


def test_nothing_is_fetched(records: list[RunRecord]) -> None:
    reader = Reader(page(records))
    inner = [one for details in reader.details.values() for one in details.tags]
    assert inner
    for tag, attributes in [*reader.tags, *inner]:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    for style in [*reader.styles, *(attributes.get("style", "") for _, attributes in reader.tags)]:
        assert "@import" not in style
        assert all(target.lstrip("'\"").startswith("data:") for target in re.findall(r"url\(\s*([^)]*)", style))
    [policy] = [it["content"] for tag, it in reader.tags if tag == "meta" and "http-equiv" in it]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


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
    plain, strange = (Reader(page([hostile(make_record, words)])) for words in ("plain", HOSTILE))

    def skeleton(reader: Reader) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in reader.tags]

    assert skeleton(strange) == skeleton(plain)
    [inside], [plain_inside] = (map(skeleton, reader.details.values()) for reader in (strange, plain))
    assert inside == plain_inside
    assert any(HOSTILE.strip() in cell for cell in strange.tables[-1][1])
    assert HOSTILE.strip() in strange.details["odd"].text
    assert "49" not in strange.details["odd"].text


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
    [section] = table.sections
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
        lines=[Line(label="FT", entries=[entry])],
        notes=["1 a note"],
    )
    text = table_html(Table(name="t", title="t", intro=[], sections=[section], tidy=[]))
    reader = Reader(text)
    assert reader.tables == [[["Method", "CoLA¹"], ["FT", entry_text(entry, column)]]]
    assert "¹ a note" in reader.text
    assert re.findall("<b>(.*?)</b>", text) == (["1.0"] if entry.best else [])


# The command


def test_the_same_records_give_the_same_file(records: list[RunRecord], tmp_path: Path) -> None:
    pages = []
    for place, order in (("a", 1), ("b", -1)):
        for run in records[::order]:
            save_record(run, tmp_path / place)
        make_report(tmp_path / place)
        pages.append((tmp_path / place / "report.html").read_bytes())
    assert pages[0] == pages[1]


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


def test_the_command_does_not_import_torch_and_is_deterministic_across_processes(
    records: list[RunRecord], tmp_path: Path
) -> None:
    for run in records:
        save_record(run, tmp_path / "res")
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
    assert (tmp_path / "res/report.html").read_text(encoding="utf-8") == page(load_records(tmp_path / "res"))
