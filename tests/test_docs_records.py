"""What the pages say was run is what the records say: how many runs, on what, how many at once, and how long."""

import csv
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.api import compose

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Run = dict[str, Any]
pytestmark = pytest.mark.skipif(not (RESULTS / "runs").exists(), reason="needs the committed records")
CARDS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")


@cache
def runs() -> list[Run]:
    """Return all runs as the table of runs has them, with their deviations as values."""
    with (RESULTS / "tables" / "runs.csv").open(encoding="utf-8", newline="") as file:
        return [{**run, "deviations": json.loads(run["deviations"])} for run in csv.DictReader(file)]


def having(*, rows: int | None = None, **values: str) -> list[Run]:
    """Return the runs with these values, on so many train rows."""
    return [
        run for run in runs()
        if run["deviations"].get("limit_train") == rows and all(run[key] == value for key, value in values.items())
    ]  # fmt: skip


@cache
def text(page: str) -> str:
    """Return a page in one line."""
    return " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())


def whole_tasks() -> list[str]:
    found = [run for run in having(model="mpnet_base") if "pad_to_max" not in run["deviations"]]
    first, second = (sum(run["device"] == card for run in found) for card in CARDS)
    return [f"{len(found):,} runs: {first:,} on {CARDS[0]}, and {second:,} on {CARDS[1]}"]


def small_tasks() -> list[str]:
    tried = having(rows=2000, model="mpnet_base")
    old = [run for run in tried if int(run["seed"]) < 3]
    new = [run for run in tried if int(run["seed"]) >= 3 and run["task"] != "rte"]
    assert {run["device"] for run in tried} == {CARDS[1]}
    methods, shared = {run["method"] for run in old}, sorted({int(run["shared_by"]) for run in new})
    return [
        f"{len(methods)} methods on 2,000 random rows each of CoLA, MRPC, STS-B and RTE, `fair`, 10 epochs, "
        f"{len(old):,} runs",
        f"Up to {max(int(run['shared_by']) for run in old)} processes shared a card",
        f"({len(new)} runs, H200, {' or '.join(map(str, shared))} to a card; C60)",
    ]


def minilm() -> list[str]:
    tried = having(rows=2000, model="minilm")
    return [
        f"{len({run['method'] for run in tried})} methods on 2,000 random rows of CoLA, two seeds, {len(tried)} runs"
    ]


def losses_of_texts() -> list[str]:
    tried = [run for run in having(rows=2000, task="e2e_nlg") if run["deviations"].get("task.score") == "loss"]
    assert all(run["deviations"]["optimizer.warmup_steps"] is None for run in tried)  # so it is a share of the run
    first = [run for run in tried if run["seed"] == "0"]
    shared = [int(run["shared_by"]) for run in tried]
    return [
        f"{len({run['method'] for run in tried})} methods on 2,000 random rows of E2E, `fair`, five epochs of 200 "
        f"steps, warm-up over 6 % of them, three rates around each method's own, H200, {min(shared)} to "
        f"{max(shared)} processes to a card",
        f"One seed ({len(first)} runs; the records have {len(tried) - len(first)} of two others)",
    ]


def frequent_draws() -> list[str]:
    tried = [
        run for run in having(rows=2000, task="e2e_nlg", epochs="5") if "task.score" not in run["deviations"]
    ]  # fmt: skip
    assert {run["deviations"]["optimizer.warmup_steps"] for run in tried} == {None}
    assert {run["shared_by"] for run in tried} == {"8", "10"}
    return [
        f"{len(tried)} runs on H200s, eight or ten processes to a card, adapters in packs of three rates",
        "2,000 random rows of E2E (1,670 dev and 1,532 test rows), `fair`, five epochs of 200 steps, warm-up over 6 %",
    ]


def manual_pages() -> list[str]:
    paths = sorted((RESULTS / "runs" / "manpages_de" / "smollm2_135m").glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    [(train, held_out)] = {(one["data"]["rows"]["train"], one["data"]["rows"]["held_out"]) for one in records}
    assert {one["config"]["epochs"] for one in records} == {4}
    return [
        f"reads {train} German manual pages four times ({train + held_out} less {held_out} that select the epoch)",
        f"up to {['five', 'six', 'seven'][max(one['device']['shared_by'] for one in records) - 5]} runs per card",
    ]


def padded() -> list[str]:
    paths = (RESULTS / "runs" / "cola" / "mpnet_base").glob("*.json")
    found = [run["id"] for run in having(model="mpnet_base") if run["deviations"].get("pad_to_max")]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.stem in found]
    configs = [record["config"] for record in records]
    assert {(one["protocol"]["name"], one["epochs"], one["max_length"]) for one in configs} == {("paper", 3, 512)}
    [rosa] = [one["method"] for one in configs if one["method"]["name"] == "rosa"]
    assert (rosa["resample_every"], rosa["resample_unit"]) == (1, "epochs")
    return [
        f"One run of three epochs each, `paper`, alone on an {CARDS[0].split()[1]}",
        "ROSA resamples every epoch here",
    ]


@pytest.mark.parametrize(
    "said", [whole_tasks, small_tasks, minilm, losses_of_texts, frequent_draws, manual_pages, padded]
)
def test_the_evidence_says_what_was_run(said: Callable[[], list[str]]) -> None:
    for sentence in said():
        assert sentence in text("evidence.md"), sentence


def cells(page: str, first: str) -> list[str]:
    """Return the other cells of the row that begins with this one."""
    [row] = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


@pytest.mark.parametrize("path", sorted((RESULTS / "benchmarks").glob("collapse_*-rosa-r8-lr0.006-s1-*.json")), ids=str)
def test_the_watched_runs_are_shown_as_measured(path: Path) -> None:
    report = json.loads(path.read_text(encoding="utf-8"))
    select = "`bottom`" if "method.select=bottom" in report["command"] else "random"
    targets = re.search(r"attn\\\.(.+?)'", report["command"])
    title = {None: "all four", "v": "values alone", "(q|k|o)": "the other three"}[targets[1] if targets else None]
    shown = dict(zip((20, 60, 80, 120, 140, 180), cells("explanations.md", f"{select}, {title}"), strict=True))
    for step, cell in shown.items():
        found = report["figures"][f"step {step}"]
        assert cell == f"{found['likeness']:.2f} ({found['update']:.2f})", step


def test_whole_runs_are_timed_under_the_protocol_that_the_page_names() -> None:
    assert "protocol=" not in (ROOT / "scripts/benchmarks/whole_run.py").read_text(encoding="utf-8")
    protocol = compose(["task=cola", "model=roberta_base"]).protocol.name
    assert f"whole runs of CoLA under `{protocol}`" in text("performance.md")
