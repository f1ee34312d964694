"""One table as Markdown, LaTeX, CSV and terminal output."""

import csv
import io
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import select
from rosa_bench.report.cells.words.header import AT_AN_END, UNSETTLED
from rosa_bench.report.tables.building.scores import FAILED
from rosa_bench.report.tables.building.table import Column, Entry, Line, Table
from rosa_bench.report.tables.paper import table2
from rosa_bench.report.writers.latex import escape, latex
from rosa_bench.report.writers.latex_pages import short_labels
from rosa_bench.report.writers.markdown import entry_text, markdown
from rosa_bench.report.writers.terminal import show
from rosa_bench.report.writers.text import blocks, parameters, probability, span
from rosa_bench.report.writers.tidy_csv import csv_text, tidy_csv

OverSeeds = Callable[..., list[RunRecord]]
COUNTS = "7 completed runs; not tabled: 1 failed"


@pytest.fixture
def table(over_seeds: OverSeeds) -> Table:
    """Two settings and every task; a regular expression, subset, leader, single seed, collapse, and an lr left out."""
    tasks = ("cola", "mrpc", "qnli", "rte", "stsb", "mnli", "sst2", "boolq", "wic")
    runs = [run for task in tasks for run in over_seeds([0.61, 0.62, 0.63], f"task={task}", held_out=0.5)]
    some = over_seeds([0.51, 0.53], "method=lora", "rank=2", held_out=0.5)
    some[1].last["spread"] = 0.0
    runs += some
    runs += over_seeds([0.5], "method=lora", "rank=2", "lr=1", held_out=0.5)
    runs += over_seeds([-0.021], "method=bitfit", held_out=0.5, trainable=100)
    targets = {"method.targets": [r"query|a_b\.c*", "attention"]}
    runs += over_seeds([0.44, 0.46], "task=rte", "rank=4", deviations=targets, held_out=0.5)
    part = {"subset": True, "rows": {"train": 90, "held_out": 10, "validation": 50}}
    runs += over_seeds([0.7, 0.8], "task=mnli", data=part, deviations={"limit_train": [100, None]})
    return table2.build(select(runs))


def markdown_tables(text: str) -> list[list[list[str]]]:
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r" (?<!\\)\| ", line[2:-2]) for line in one.splitlines()] for one in found]


def test_markdown_has_one_aligned_table_per_setting(table: Table) -> None:
    text = markdown(table, COUNTS)
    tables = markdown_tables(text)
    assert len(tables) == len(table.sections) == 2
    for rows, section in zip(tables, table.sections, strict=True):
        assert {len(row) for row in rows} == {len(section.filled.columns) + 1}
        assert len(rows) == len(section.filled.lines) + 2
        assert len({sum(map(len, row)) for row in rows}) == 1  # the source is aligned too
    assert COUNTS in text


def test_markdown_cells(table: Table) -> None:
    (head, _, *rows), _ = markdown_tables(markdown(table, COUNTS))
    shown = {
        row[0].strip(): dict(zip([cell.strip() for cell in head], map(str.strip, row), strict=True)) for row in rows
    }
    assert shown["ROSA (r=8)‡"]["RTE"] == "**62.0** ± 1.0 (3) / 72.56"  # all its cells carry the mark
    assert shown["ROSA (r=8)‡"]["WiC"] == "62.0 ± 1.0 (3)"
    assert shown["LoRA (r=2)"]["CoLA"] == "52.0 ± 1.4 (2, 1 collapsed)‡ / 53.42"
    assert shown["BitFit"]["CoLA"] == "-2.1 (1)‡"
    assert shown["BitFit"]["RTE"] == "–"
    assert shown["LoRA (r=2)"]["MNLI"] == "– / 85.37"
    assert "FT" not in shown  # the paper's, but not ours
    assert r"ROSA (r=4, targets=query\|a_b\\.c\*)" in shown


@pytest.mark.parametrize(
    ("entry", "paper", "expected"),
    [
        (Entry(), True, "–"),
        (Entry(mean="1.0", count=1), True, "1.0 (1)"),
        (Entry(mean="1.0", count=1), False, "1.0 (1)"),
        (Entry(mean="1.0", spread="0.5", count=2, mark="‡", paper="2", best=True), True, "<1.0> ± 0.5 (2)‡ / 2"),
        (Entry(mean="1.0", count=3, collapsed=1, mark="§"), False, "1.0 (3, 1 collapsed)§"),
        (Entry(paper="2"), True, "– / 2"),
    ],
)
def test_entry_text(entry: Entry, paper: bool, expected: str) -> None:
    text = entry_text(entry, Column(title="", paper=paper), strong="'")
    assert text == expected.replace("<", "'").replace(">", "'")


def test_latex_has_balanced_columns_and_braces(table: Table) -> None:
    text = latex(table, COUNTS)
    tabulars = re.findall(r"\\begin\{tabular\}\{@\{\}(l)(r+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == text.count(r"\begin{tabular}") > 2  # the wide table is split
    for first, others, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(first + others)}
        assert [body.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    plain = re.sub(r"\\[{}$]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert sorted(re.findall(r"\\begin\{(\w+)\}", text)) == sorted(re.findall(r"\\end\{(\w+)\}", text))


def test_latex_shows_every_figure_and_no_stray_character(table: Table) -> None:
    text = latex(table, COUNTS)
    assert r"$\mathbf{62.0}_{\pm 1.0}$ (3) / 72.56" in text  # seeds differ between cells, so they are shown
    assert r"ROSA (r=8)$^\ddagger$ &" in text
    assert r"$52.0_{\pm 1.4}$ (2)$^\ddagger$ / 53.42" in text
    assert r"Collapsed runs, which are counted in: LoRA (r=2) CoLA 1 of 2." in text
    assert r"$-2.1$ (1)$^\ddagger$" in text
    assert r"query\textbar{}a\_b\textbackslash{}.c*" in text
    assert text.isascii()


def test_latex_omits_the_number_of_seeds_if_it_is_the_same_everywhere(table: Table) -> None:
    second = latex(table, COUNTS).split(r"\begin{table}")[-1]
    assert r"$75.0_{\pm 7.1}$ / 87.09" in second
    assert "Seeds: 2." in second


@pytest.mark.parametrize("mark", [AT_AN_END, UNSETTLED, FAILED])
def test_latex_has_a_command_for_every_mark(mark: str) -> None:
    assert escape(mark).isascii()


def test_latex_escapes_special_characters() -> None:
    assert escape(r"50 % of a_b & {c} $ # ~ ^ \d") == (
        r"50 \% of a\_b \& \{c\} \$ \# \textasciitilde{} \textasciicircum{} \textbackslash{}d"
    )


def test_csv_has_the_tables_figures(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(table.tidy))))
    shown = [
        (str(number), line.label, one)
        for number, section in enumerate(table.sections, start=1)
        for line in section.lines
        for one in line.entries[1:]
        if one.mean
    ]
    assert len(rows) == len(shown)
    for row, (number, label, one) in zip(rows, shown, strict=True):
        assert (row["setting"], row["seeds"], row["paper_x100"]) == (number, str(one.count), one.paper or "")
        assert f"{float(row['mean_x100']):z.1f}" == one.mean
        assert (f"{float(row['std_x100']):z.1f}" if row["std_x100"] else None) == one.spread
        assert (row["best"] == "true", row["collapsed"] or "0") == (one.best, str(one.collapsed))
        assert len(row["runs"].split()) == one.count
        assert f"r={row['rank']}" in label or row["rank"] == ""


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show(table, console)
    return console.file.getvalue()  # pyrefly: ignore[missing-attribute]


@pytest.fixture
def compared(over_seeds: OverSeeds) -> Table:
    """LoRA and ROSA on two tasks, and a variant with one seed and a long name with Markdown and LaTeX characters."""
    runs = [run for task in ("cola", "rte") for run in over_seeds([0.4, 0.3, 0.2], f"task={task}", "method=lora")]
    runs += over_seeds([0.5, 0.5, 0.5], "task=cola") + over_seeds([0.1, 0.0, -0.1], "task=rte")
    changes = {"method.init": ["svd_add", "svd"], "method.resample_every": [0, 2.0], "method.head": ["a_b|c", "d"]}
    return table2.build(select([*runs, *over_seeds([0.5], "task=rte", deviations=changes)]))


def test_comparisons_have_their_own_table_below(compared: Table) -> None:
    _, (head, rule, *rows) = markdown_tables(markdown(compared, COUNTS))
    assert len({sum(map(len, row)) for row in [head, rule, *rows]}) == 1
    assert [[cell.strip() for cell in row] for row in [head, *rows]] == [
        ["Method", "Task", "Difference [95 %]", "p (Holm)", "Seeds", "Verdict"],
        ["ROSA (r=8)", "CoLA", "+20.0 [-4.8, +44.8]", "0.07", "3", "within noise"],
        ["ROSA (r=8)", "RTE", "-30.0 [-30.0, -30.0]", "–", "3", "not known"],
        [r"ROSA (r=8, head=a_b\|c, init=svd_add, resample_every=0)", "RTE", "+10.0", "–", "1", "not known"],
    ]


def test_comparisons_are_a_sentence_in_latex_and_all_are_in_comments(compared: Table) -> None:
    text = latex(compared, COUNTS)
    heading = "Compared with LoRA at equal rank, paired over seeds; Holm's correction is over 1 test"
    assert f"\\par {heading}. Significant: none.\n" in text
    assert f"{heading}:\n" in markdown(compared, COUNTS)
    assert "% ROSA (r=8), CoLA, +20.0 [-4.8, +44.8], 0.07, 3, within noise\n" in text
    assert r"% ROSA (r=8, head=a\_b\textbar{}c, init=svd\_add, resample\_every=0), RTE, +10.0, 1, not known" in text
    [section] = compared.sections
    proved = [replace(one, verdict="below LoRA", p="0.01") for one in section.contrasts]
    text = latex(replace(compared, sections=[replace(section, contrasts=proved)]), COUNTS)
    assert r"ROSA (r=8), CoLA $+20.0$ [$-4.8$, $+44.8$], $p = 0.01$ by Holm, 3 seeds: below LoRA; " in text


def test_latex_has_the_papers_rows_and_then_the_others(table: Table) -> None:
    first, others = re.findall(r"\\label\{tab:table2-1(.*?)\\end\{table\}", latex(table, COUNTS), re.DOTALL)
    assert first.startswith("}")
    assert others.startswith("-variants}")
    assert "LoRA (r=2) &" in first
    assert "BitFit" not in first
    assert "BitFit" in others
    assert "LoRA" not in others


def test_a_mark_is_explained_where_it_is_used(compared: Table, table: Table) -> None:
    for part in latex(table, COUNTS).split(r"\begin{table}")[1:]:
        *tabulars, below = part.split(r"\end{tabular}")
        assert (r"$^\ddagger$" in "".join(tabulars)) == (r"\par $^\ddagger$ the smallest" in below)
    assert "smallest" not in re.sub("%.*", "", latex(compared, COUNTS))


def test_long_values_are_cut_in_names_unless_two_rows_would_share_one() -> None:
    long = [r"ROSA (r=8, targets=attention\.attn\.(q|k|o))", r"ROSA (r=8, targets=attention\.attn\.v)"]
    named = short_labels([Line(label=label, entries=[]) for label in long])
    assert list(named.values()) == [r"ROSA (r=8, targets=...\.(q|k|o))", r"ROSA (r=8, targets=...\.attn\.v)"]
    alike = [f"A (x={start}0123456789)" for start in ("aaaaaa", "bbbbbb")]
    assert list(short_labels([Line(label=label, entries=[]) for label in alike]).values()) == alike


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("rows", [3, 150])
def test_latex_compiles_and_fits_its_pages(table: Table, tmp_path: Path, rows: int) -> None:
    first, *sections = table.sections
    bitfit = next(line for line in first.lines if line.label == "BitFit")
    changes = "targets=layers, basis=random, init=balanced, rewarm_steps=10, moments=rotate, stagger=true, train=a"
    more = [replace(bitfit, label=f"ROSA (r={number}, {changes})") for number in range(rows)]
    long = replace(table, sections=[replace(first, lines=[*first.lines, *more]), *sections])
    (tmp_path / "table.tex").write_text(latex(long, COUNTS), encoding="utf-8")
    (tmp_path / "page.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Float too large" not in done.stdout
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("width", [80, 120])
def test_comparisons_fit_the_terminal(compared: Table, width: int) -> None:
    text = shown(compared, width)
    assert max(map(cell_len, text.splitlines())) <= width
    for words in ("paired over seeds", "+20.0 [-4.8, +44.8]", "-30.0 [-30.0, -30.0]", "not known"):
        assert words in text


def test_without_comparisons_none_are_mentioned(table: Table) -> None:
    assert not any(section.contrasts for section in table.sections)
    for text in (markdown(table, COUNTS), latex(table, COUNTS), shown(table, 80)):
        assert "equal rank" not in text


def test_csv_has_intervals_and_comparisons(compared: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv(compared.tidy))))
    found = {(row["method"], row["task"], row["seeds"]): row for row in rows}
    lora, rosa, one = found["lora", "cola", "3"], found["rosa", "cola", "3"], found["rosa", "rte", "1"]
    names = ("vs_lora_x100", "vs_lora_low", "vs_lora_high", "vs_lora_p", "vs_lora_p_holm", "vs_lora_seeds")
    assert [lora[name] for name in names] == [""] * 6
    assert [rosa[name] for name in names] == ["20.0000", "-4.8414", "44.8414", "0.07418", "0.07418", "3"]
    assert [one[name] for name in names] == ["10.0000", "", "", "", "", "1"]
    ends = ("interval_low_x100", "interval_high_x100", "interval_of", "interval_method")
    assert [lora[name] for name in ends] == ["5.1586", "54.8414", "seeds", "Student"]
    assert rosa["interval_of"] == one["interval_of"] == "dev set"  # one of them has three equal seeds
    assert [row["configurations_tried"] for row in (lora, rosa, one)] == ["3", "3", "1"]


@pytest.mark.parametrize("width", [80, 120, 160, 400])
def test_terminal_output_fits_the_width_and_cuts_no_figure(table: Table, width: int) -> None:
    text = shown(table, width)
    assert max(map(cell_len, text.splitlines())) <= width
    for section in table.sections:
        for line in section.lines:
            for one, column in zip(line.entries, section.columns, strict=True):
                assert one.mean is None or entry_text(one, column) in text


def test_the_terminal_shows_only_rows_and_columns_with_figures(table: Table) -> None:
    _, second = re.split(r"^2\. ", shown(table, 120), flags=re.MULTILINE)
    assert "MNLI" in second
    assert "CoLA" not in second
    assert "FT" not in second


def test_the_terminal_prints_text_verbatim(over_seeds: OverSeeds) -> None:
    """Brackets in a regular expression are not rich markup."""
    runs = over_seeds([0.5], deviations={"method.targets": ["[bold]x[/]:smile:", "attention"]})
    assert "targets=[bold]x[/]:smile:" in shown(table2.build(select(runs)), 120)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0"),
        (768, "768"),
        (1000, "1.00 k"),
        (73_728, "73.7 k"),
        (99_960, "100 k"),
        (626_688, "627 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (124_647_170, "125 M"),
        (1_540_000_000, "1540 M"),
    ],
)
def test_parameters(count: int, expected: str) -> None:
    assert parameters(count) == expected


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (None, "{:.2f}", ""),
        (math.nan, "{:.2f}", ""),
        (-math.inf, "{}", ""),
        (0, "{}", "0"),
        (8, "{}", "8"),
        (1 / 3, "{:.2f}", "0.33"),
        (True, "{:d}", "1"),
    ],
)
def test_an_unknown_number_is_empty_in_a_csv_file(value: float | None, form: str, expected: str) -> None:
    assert csv_text(value, form) == expected


@pytest.mark.parametrize(
    ("p", "expected"), [(1.0, "1.00"), (0.0742, "0.07"), (0.01, "0.01"), (0.0042, "0.004"), (1e-9, "<0.001")]
)
def test_probability(p: float, expected: str) -> None:
    assert probability(p) == expected


@pytest.mark.parametrize(("values", "expected"), [({3}, "3"), ({1, 3, 2}, "1 to 3")])
def test_span(values: set[int], expected: str) -> None:
    assert span(values) == expected


@pytest.mark.parametrize(
    ("widths", "available", "expected"),
    [
        ([], 10, []),
        ([5, 5], 10, [[0, 1]]),
        ([5, 6], 10, [[0], [1]]),
        ([20, 1, 20], 10, [[0], [1], [2]]),  # a width that fits nowhere gets its own block
        ([4, 4, 4], 8, [[0, 1], [2]]),
    ],
)
def test_blocks(widths: list[float], available: float, expected: list[list[int]]) -> None:
    assert blocks(widths, available) == expected
