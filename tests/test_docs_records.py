"""What the pages say was run is what the records say: how many runs, on what, how many at once, and how long."""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import combinations, product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from omegaconf import OmegaConf
from scipy.stats import kendalltau, ttest_1samp

from rosa_bench.api import compose

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Run = dict[str, Any]
pytestmark = pytest.mark.skipif(not (RESULTS / "runs").exists(), reason="needs the committed records")
CARDS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
SEEDS = "01234"  # of losses of texts


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
    rte = [run for run in tried if int(run["seed"]) >= 3 and run["task"] == "rte"]
    assert {run["device"] for run in tried} == {CARDS[1]}
    methods = {run["method"] for run in old}
    return [
        f"{len(methods)} methods on 2,000 random rows each of CoLA, MRPC, STS-B and RTE, `fair`, 10 epochs, "
        f"{len(old):,} runs",
        f"Up to {max(int(run['shared_by']) for run in old)} processes shared a card",
        *(
            f"({len(some)} runs, H200, {' or '.join(sorted({run['shared_by'] for run in some}))} to a card; {command})"
            for some, command in ((new, "C60"), (rte, "C62"))
        ),
    ]


def minilm() -> list[str]:
    tried = having(rows=2000, model="minilm")
    return [
        f"{len({run['method'] for run in tried})} methods on 2,000 random rows of CoLA, two seeds, {len(tried)} runs"
    ]


def of_texts_by_loss() -> list[Run]:
    return [run for run in having(rows=2000, task="e2e_nlg") if run["deviations"].get("task.score") == "loss"]


def losses_of_texts() -> list[str]:
    tried = of_texts_by_loss()
    assert all(run["deviations"]["optimizer.warmup_steps"] is None for run in tried)  # so it is a share of the run
    first, second, third, *more = (sum(run["seed"] == seed for run in tried) for seed in SEEDS)
    assert first + second + third + sum(more) == len(tried)
    shared = [int(run["shared_by"]) for run in tried]
    return [
        f"{len({run['method'] for run in tried})} methods on 2,000 random rows of E2E, `fair`, five epochs of 200 "
        f"steps, warm-up over 6 % of them, three to five rates around each method's own, H200, {min(shared)} to "
        f"{max(shared)} processes to a card",
        f"{first} runs of a first seed, {second} of a second, {third} of a third and {sum(more)} of two more",
    ]


class AtFirstRate:
    """Losses of each method at the rate that its first seed chose, one per seed, and what they show."""

    def __init__(self) -> None:
        self.losses = dict[tuple[str, str, str], float]()
        self.rates = defaultdict[tuple[str, str], dict[str, float]](dict)
        for run in of_texts_by_loss():
            method, lr, seed = run["method"], run["lr"], run["seed"]
            self.losses[method, lr, seed] = float(run["selected_score"])
            self.rates[method, seed][lr] = float(run["selection_score"])
        self.chosen = {key: min(rates, key=rates.__getitem__) for key, rates in self.rates.items()}
        first = {method: lr for (method, seed), lr in self.chosen.items() if seed == "0"}
        self.rows = {
            method: [self.losses[method, lr, seed] for seed in SEEDS if (method, lr, seed) in self.losses]
            for method, lr in first.items()
        }
        assert all(len(row) >= 3 for row in self.rows.values())  # so its seeds are the first ones
        lora = self.rows["lora"]
        self.behind = {
            method: [one - other for one, other in zip(row, lora, strict=False)]
            for method, row in self.rows.items()
            if method != "lora"
        }
        p = {method: ttest_1samp(differences, 0).pvalue for method, differences in self.behind.items()}
        self.significant = {
            method
            for method in p
            if all(p[other] * sum(p[other] <= it for it in p.values()) < 0.05 for other in p if p[other] <= p[method])
        }  # Holm's correction


@cache
def at_first_rate() -> AtFirstRate:
    return AtFirstRate()


def later_seeds() -> list[str]:
    """What seeds show that had no part in choosing a rate, and how far seeds at one rate differ."""
    found = at_first_rate()
    columns = list(zip(*(row[:3] for row in found.rows.values()), strict=True))
    taus = sorted(kendalltau(one, other).statistic for one, other in combinations(columns, 2))
    behind = [row[:3] for row in found.behind.values()]
    whole = [row for row in found.behind.values() if len(row) == len(SEEDS)]
    before, new = [fmean(row[:3]) for row in whole], [row[3:] for row in whole]
    leads = [differences for differences in behind if differences[0] < 0]
    shrunk = " and ".join(f"{fmean(-lead[seed] for lead in leads):.3f}" for seed in (1, 2))
    pairs = sorted(
        abs(found.losses[cell] - found.losses[other])
        for cell, other in combinations(found.losses, 2)
        if cell[:2] == other[:2]
    )  # fmt: skip
    thrice = [method for method, seed in found.rates if seed == "1" and len(found.rates[method, seed]) >= 3]
    alike = sum(found.chosen[method, "0"] == found.chosen[method, "1"] for method in thrice)
    return [
        f"Kendall's tau of the orders of two seeds is {taus[0]:+.2f} to {taus[-1]:+.2f} ({len(found.rows)} methods). "
        f"{sum(max(it) < 0 for it in behind)} of the {len(behind)} others have a lower loss than LoRA in all three "
        f"seeds, {sum(min(it) > 0 for it in behind)} in none",
        f"All {sum(max(row) < 0 for row in new) * len(new[0])} of their differences are below zero, "
        f"{fmean(map(fmean, new)):.3f} on average, where those of the first three seeds are {fmean(before):.3f}",
        f"The {len(leads)} leads of the first seed are {fmean(-lead[0] for lead in leads):.3f} on average, and "
        f"{shrunk} in the others",
        f"The {len(pairs)} pairs of seeds at one rate differ by {median(pairs):.3f} at the median, nine of ten by at "
        f"most {pairs[math.ceil(0.9 * len(pairs)) - 1]:.3f}, and one by {pairs[-1]:.3f} (ReLoRA at 2e-2",
        f"for {alike} of the {len(thrice)} methods of which it ran three",
    ]


def all_seeds_of_texts() -> list[str]:
    """The cells of the table of losses: the mean of a method's seeds, and its difference from LoRA with an interval."""
    found, said = at_first_rate(), []
    yamls = (ROOT / "conf" / "method").glob("*.yaml")
    titles = {path.stem: OmegaConf.select(OmegaConf.load(path), "title") for path in yamls}
    titles |= {"ft": "full fine-tuning", "diff_pruning": "differential pruning", "prefix_tuning": "prefix tuning"}
    titles |= {"prompt_tuning": "prompt tuning"}
    titles |= {"lora": "LoRA, rank 8", "rosa": "ROSA, never resampled"}
    for method, row in found.rows.items():
        seeds = f" ({len(row)})" if len(row) > 3 else ""
        cell = f"| {titles[method]} | {fmean(row):.3f} |"
        if method == "lora":
            said.append(f"{cell} –{seeds} |")
            continue
        interval = ttest_1samp(found.behind[method], 0).confidence_interval()
        star = "*" * (method in found.significant)
        low, mean, high = (f"{it:+.3f}" for it in (interval.low, fmean(found.behind[method]), interval.high))
        said.append(re.sub(r"[+-]0\.000", "0.000", f"{cell} {mean}{star} [{low}, {high}]{seeds} |"))
    return said


def test_the_readme_says_what_beats_lora_on_text() -> None:
    found = at_first_rate()
    leads = {
        method: -fmean(row) for method, row in found.behind.items() if method in found.significant and max(row) < 0
    }
    high, low = (-it for it in ttest_1samp(found.behind["ft"], 0).confidence_interval())
    lead = leads.pop("ft")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"by {lead:.3f} nats per token [{low:.3f}, {high:.3f}], and eight other methods do by" in readme
    assert f"by {min(leads.values()):.3f} to {max(leads.values()):.3f}, such" in readme and len(leads) == 8
    assert {len(found.behind[method]) for method in leads} == {5} and "2,000 rows, 5 seeds;" in readme


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
    "said",
    [
        whole_tasks,
        small_tasks,
        minilm,
        losses_of_texts,
        later_seeds,
        all_seeds_of_texts,
        frequent_draws,
        manual_pages,
        padded,
    ],
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


def test_memory_savers_are_shown_as_measured() -> None:
    savers = ("none", "gradient_checkpointing=true", "gradient_checkpointing=true offload=layers")
    titles = {
        "ft": "full fine-tuning",
        "lisa": "LISA",
        "lora": "LoRA",
        "rosa,base_dtype=bfloat16": "ROSA, `base_dtype=bfloat16`",
    }
    later = {"rosa": "ROSA", "rosa,method.targets=all-linear": "ROSA, `method.targets=all-linear`", "galore": "GaLore"}
    worst = 0.0
    for name, rows in (("memory_savers", titles), ("memory_savers_draws", later)):
        [path] = (RESULTS / "benchmarks").glob(f"{name}_h200_*.json")
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        for size, (method, title) in product(("8 x 2048", "8 x 512"), rows.items()):
            found = [figures[key] for saver in savers if (key := f"{size}, {method}, {saver}") in figures]
            shown = [f"{row['MiB']:,.0f}; {row.get('ms, to ft', 1):.2f}" for row in found]
            said = [cell.removesuffix(" on one CPU thread") for cell in cells("performance.md", f"{size}, {title}")]
            assert said == [*shown, "not measured"][: len(savers)]
        worst = max(worst, *(row.get("loss_difference", 0) for row in figures.values()))
    one_thread = [f"{figures[f'{size}, ft, {savers[-1]}']['ms, to ft']:.1f} times" for size in ("8 x 2048", "8 x 512")]
    assert f"{one_thread[0]} as long there on 8 x 2048 and {one_thread[1]} on 8 x 512" in text("performance.md")
    assert f"with one thread on the CPU {one_thread[0].split()[0]} and {one_thread[1]}" in text("findings.md")
    mantissa, exponent = f"{worst:.1e}".split("e")
    assert f"differ by at most {mantissa}e{int(exponent)} of their value" in text("performance.md")


def test_a_decoders_step_is_compared_with_pefts_as_measured() -> None:
    report = json.loads((RESULTS / "benchmarks" / "decoder_step_h200_2026-12-01.json").read_text(encoding="utf-8"))
    found = report["figures"]["step 16 x 256"]
    ours, captured, theirs = (
        found[f"{name}, ms"] for name in ("lora, all logits", "lora, all logits, graph", "peft_lora, all logits")
    )
    said = (
        f"our eager step takes {ours:.1f} ms and the captured one {captured:.1f}, HF PEFT's LoRA takes {theirs:.1f} "
        f"ms, so ours takes {ours / theirs:.2f} and {captured / theirs:.2f} of its time. Its peak is "
        f"{found['peft_lora, all logits, peak_MB']:,.0f} MB, ours {found['lora, all logits, peak_MB']:,.0f}"
    )
    assert said in text("performance.md")
