"""Hostile values for the fields of a record, and every maker of the report."""

import copy
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from rich.console import Console

from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.report.cells.words.unshown import not_shown, unshown
from rosa_bench.report.compare import compare, why_not
from rosa_bench.report.comparison import comparison
from rosa_bench.report.make_figures import draw_figures, why_not_drawn
from rosa_bench.report.make_page import page
from rosa_bench.report.make_tables import build_tables, counted, searched
from rosa_bench.report.next import next_commands
from rosa_bench.report.page.packing import packed_runs
from rosa_bench.report.tables.runs import run_rows
from rosa_bench.report.writers.latex import latex
from rosa_bench.report.writers.markdown import markdown
from rosa_bench.report.writers.terminal import show, show_sections
from rosa_bench.report.writers.tidy_csv import tidy_csv
from rosa_bench.system.errors import UserError

GONE = object()
TEXTS = (
    "",
    "../../../escape",
    "a/b",
    "-rf",
    "x" * 5000,
    "\\input{/etc/passwd}\n\\immediate\\write18{id}",
    "a\nb\r\n\\input{x}",
    "$\\frac{$ $a$ $",
    "_hidden",
    "| a | b |\n|---|---|",
    "[x](javascript:alert(1)) ![y](http://127.0.0.1/z) `c` *d* __e__ &lt;",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    '=HYPERLINK("http://127.0.0.1")',
    "+1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\x1b[31m\x1b]0;title\x07\x1b[2J",
    "[bold red]markup[/] [link=http://127.0.0.1]x[/link]",
    "\u202egnp.exe\u2066\u200b\u2028\ufeff",
    "\x00\x01\x7f\x85\x9b",
    "${oc.env:HOME}",
    "$(touch /tmp/x); `id` && 'quoted' \"too\"",
    "é — 漢 😀",
)
OTHERS = (
    None, True, False, 0, -1, 1, 2, 10**9, 2**53, 2**63, 10**25, -(10**25), 1e-320, 1e99, -1e99, 1e100, 1.5, 0.0, -0.0,
    1e308, float("nan"), float("inf"), float("-inf"), [], {}, [None], [[]], {"a": {"b": [1, None, "x"]}}, [1, "x", 2.5],
    "2026-02-99T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+23:59",
    GONE,
)  # fmt: skip


def places(values: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value inside JSON values."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield (*at, key)
        yield from places(value, (*at, key))


def mutated(values: dict[str, Any], at: tuple, new: Any) -> dict[str, Any]:
    """Return a copy with another value at a place, or without it."""
    changed = copy.deepcopy(values)
    place: Any = changed
    for key in at[:-1]:
        place = place[key]
    if new is GONE:
        del place[at[-1]]
    else:
        place[at[-1]] = copy.deepcopy(new)
    return changed


def mutations(values: dict[str, Any], count: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``count`` mutated copies, each with a description. One to three places are changed."""
    draw = random.Random(seed)
    for _ in range(count):
        changed, said = values, []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            at = draw.choice(list(places(changed)))
            new = draw.choice(TEXTS if draw.random() < 0.4 else OTHERS)
            if draw.random() < 0.15:  # a key that was not there
                at = (*at[:-1], draw.choice(TEXTS)) if isinstance(at[-1], str) else at
                new = "added" if new is GONE else new
            changed = mutated(changed, at, new)
            said.append(f"{'.'.join(map(str, at))}={'gone' if new is GONE else new!r:.60}")
        yield ", ".join(said), changed


Made = dict[str, str | bytes]


def on_terminal(write: Callable[[Console], None]) -> str:
    """Return what is written to a terminal with colours."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    write(console)
    return console.file.getvalue()  # pyrefly: ignore[missing-attribute]


def tables(records: Sequence[RunRecord]) -> Made:
    counts = counted(records)
    made: Made = {"runs.csv": tidy_csv(run_rows(records))}
    for table in build_tables(records):
        made |= {f"{table.name}.md": markdown(table, counts), f"{table.name}.tex": latex(table, counts)}
        made |= {f"{table.name}.csv": tidy_csv(table.tidy)}
        made |= {f"{table.name}.terminal": on_terminal(lambda console, table=table: show(table, console))}
    return made


def comparisons(records: Sequence[RunRecord]) -> Made:
    made: Made = {}
    for words in ("method=rosa,lora", "method=rosa method.resample_every=0,2.0", "seed=0 lr=1e-3,1e-4"):
        asked = comparison(words.split())
        try:
            sections, shown, _ = compare(asked, records)
        except UserError as error:
            made[words] = str(error)
            continue
        left = not_shown(unshown(records, shown, lambda run, asked=asked: why_not(asked, run)), len(records))
        made[f"{words}.terminal"] = on_terminal(lambda console, found=sections: show_sections(found, console)) + left
    return made


def commands(records: Sequence[RunRecord]) -> Made:
    return {"next": "\n".join(next_commands(searched(records), seeds=3))}


def figures(records: Sequence[RunRecord]) -> Made:
    made: Made = {}
    for drawing in draw_figures(list(records)):
        made |= {f"{drawing.name}.md": drawing.caption, f"{drawing.name}.svg": drawing.picture("svg")}
    return made


def not_drawn(records: Sequence[RunRecord]) -> Made:
    return {"left": not_shown(unshown(records, (), why_not_drawn(records)), len(records))}


def pages(records: Sequence[RunRecord]) -> Made:
    return {"page.html": page(records), "runs": packed_runs(records)}


MAKERS: dict[str, Callable[[Sequence[RunRecord]], Made]] = {
    "tables": tables,
    "comparisons": comparisons,
    "commands": commands,
    "figures": figures,
    "not drawn": not_drawn,
    "pages": pages,
}


@pytest.fixture
def hostile_texts() -> tuple[str, ...]:
    """Texts that are markup, commands or control sequences somewhere."""
    return TEXTS


@pytest.fixture
def mutate() -> Callable[..., Iterator[tuple[str, dict[str, Any]]]]:
    """``mutate(values, count, seed)``: yield mutated copies of a record's JSON values, with descriptions."""
    return mutations


@pytest.fixture
def makers() -> dict[str, Callable[[Sequence[RunRecord]], Made]]:
    """Functions that make parts of the report from records, by name. Each returns texts and pictures by name."""
    return MAKERS


@pytest.fixture
def values(every_kind: list[RunRecord]) -> list[dict[str, Any]]:
    """The JSON values of records of every kind."""
    return [json.loads(json.dumps(to_values(run))) for run in every_kind]
