"""What the answer says, for made-up choices."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from rosa_bench.choose.answer import answer
from rosa_bench.choose.budget import Budget
from rosa_bench.choose.candidates import Untried
from rosa_bench.choose.choosing import Chosen
from rosa_bench.choose.halving import Score
from rosa_bench.choose.plan import Arm, Cost, Rows, Size
from rosa_bench.choose.search import Found
from rosa_bench.choose.state import Choice
from rosa_bench.config.files.folder import config_dir
from rosa_bench.records.parts.mappings import PeakBytes
from rosa_bench.records.parts.measured import Stopped
from rosa_bench.records.record import RunRecord

LORA, FT, BITFIT, ROSA = Arm("lora", 2e-3, 8), Arm("ft", 6e-5), Arm("bitfit", 6e-4), Arm("rosa", 1e-3)
TYPED = ["task=classify", "protocol=fair", "data=my file.csv"]


@pytest.fixture
def chosen(make_record: Callable[..., RunRecord]) -> Chosen:
    """LoRA is level with full fine-tuning, which is best on held-out rows and needs four times the memory."""

    def runs(method: str, dev: list[float], held_out: float, gb: int) -> dict[int, RunRecord]:
        made = {}
        for seed, score in enumerate(dev):
            run = make_record("task=cola", f"method={method}", f"seed={seed}", dev=score, held_out=held_out)
            run.memory_bytes = PeakBytes({"train": gb * 2**30})
            run.parameters.saved_bytes = 400 * 2**20 if method == "ft" else 3 * 2**19
            made[seed] = run
        return made

    finals = {LORA: runs("lora", [0.60, 0.64, 0.61], 0.5, 1), FT: runs("ft", [0.62, 0.61, 0.63], 0.6, 4)}
    rungs = {
        1: {LORA: Score(0.4), FT: Score(0.5), BITFIT: Score(float("nan"))},
        3: {LORA: Score(0.45), FT: Score(0.55)},
    }
    choice = Choice(
        id="classify-mpnet-0",
        given=TYPED,
        limits=["epochs=3", "limit_train=2000"],
        size=Size([LORA, FT, BITFIT], epochs=3, seeds=3, rows=2000, seconds=500),
        rows=Rows(67_349, 1043, 0.1, 1000),
        about="text from review",
        costs={arm.kind: Cost(1, 1, 1, 1, 1) for arm in (LORA, FT, BITFIT)},
        untried=[Untried("dora", "memory: it needs 20 GiB or more")],
        reference="ft",
        spent_s=540,
    )
    return Chosen(choice, Found(rungs, finals), Budget(600, spent=540, clock=lambda: 0.0), 12, Path("choice.json"))


FINALISTS = """\
## Finalists

| | matthews_correlation [95 %] | on rows that select | memory | to store | seeds |
| --- | ---: | ---: | ---: | ---: | ---: |
| lora rank 8 lr 0.002 | 61.7 [56.5, 66.8] | 50.0 | 1 GiB | 1.5 MiB | 3 |
| ft lr 6e-05 | 62.0 [59.5, 64.5] | 60.0 | 4 GiB | 400 MiB | 3 |

"""
BASIS = """\
## What it is based on

- asked: which method for `task=classify protocol=fair 'data=my file.csv'` within 10 minutes
- 9.0 of 10 minutes; 12 runs, on NVIDIA H200
- 2,000 of 67,349 train rows, 3 epochs: so many fit the time. With all rows another choice may be better; a new choice \
with more minutes, in another results_dir, uses more rows
- text from review
- 3 combinations by successive halving on rows held out of train

"""
RUNGS = """\
## All combinations

| | score on the rows that select | after epochs |
| --- | ---: | ---: |
| ft lr 6e-05 | 55.0 | 3 |
| lora rank 8 lr 0.002 | 45.0 | 3 |
| bitfit lr 0.0006 | failed | 1 |

"""
UNTRIED = """\
## Not tried

- dora: memory: it needs 20 GiB or more
"""
LORAS = """\
# Use lora rank 8 lr 0.002

```bash
rosa-bench task=classify protocol=fair 'data=my file.csv' epochs=3 method=lora rank=8 lr=0.002 save_model=true
```

- matthews correlation: 61.7 [56.5, 66.8] [95 % interval over seeds, Student], 3 seeds, 1,043 rows that neither \
trained nor ranked anything
- against ft lr 6e-05: -0.3 [-7.5, +6.8], level
"""
CHEAPER = (
    "- level with ft lr 6e-05, the best on the rows that select, and cheaper: 1 GiB of memory instead of 4 GiB, "
    "1.5 MiB to store instead of 400 MiB\n"
)


def said(chosen: Chosen, *, margin: float = 0.01) -> str:
    """The text of a choice that recommends something."""
    text, recommends = answer(chosen, typed=TYPED, margin=margin)
    assert recommends
    return text


def test_a_cheaper_method_level_with_the_best_is_recommended_with_the_command_for_all_rows(chosen: Chosen) -> None:
    assert said(chosen) == f"{LORAS}{CHEAPER}\n{FINALISTS}{BASIS}{RUNGS}{UNTRIED}"


def test_what_is_known_of_the_finalists_is_said_and_nothing_else(chosen: Chosen) -> None:
    """Their records may be without memory or sizes; a seed may have learned nothing, or have no score."""
    lora, ft = chosen.found.finals.values()
    lora[1].stopped = Stopped(epoch=2, reason="collapsed")
    collapsed = "- 1 of its 3 seeds give the same answer for all rows, so nothing was learned there\n"
    assert said(chosen) == f"{LORAS}{collapsed}{CHEAPER}\n{FINALISTS}{BASIS}{RUNGS}{UNTRIED}"
    ft[0].parameters.saved_bytes = None
    assert "and cheaper: 1 GiB of memory instead of 4 GiB\n" in said(chosen)
    ft[0].parameters.saved_bytes = 400 * 2**20
    for run in ft.values():
        run.memory_bytes = PeakBytes({"train": 2**30 + 2**23})
    assert "and cheaper: 1.5 MiB to store instead of 400 MiB\n" in said(chosen)
    for run in lora.values():
        run.parameters.saved_bytes, run.memory_bytes = None, PeakBytes({})
    assert "| 60.0 | 1 GiB | 400 MiB | 3 |\n" in said(chosen)
    assert "| 50.0 | – | – | 3 |\n" in said(chosen)
    del lora[1], lora[2]
    ft[2].selected["matthews_correlation"] = None
    text = said(chosen)
    assert "- matthews correlation: 60.0 [56.0, 63.7] [95 % interval over dev set, Fisher], 1 seed, 1,043 rows" in text
    assert "\n- no other finalist was completed and learned anything, so there is nothing to compare it with\n" in text
    assert "| ft lr 6e-05 |" not in text.partition("## All")[0]


def test_what_the_choice_is_based_on(chosen: Chosen) -> None:
    whole = structs.replace(
        chosen.choice, size=structs.replace(chosen.choice.size, rows=None), about="", spent_s=606, untried=[]
    )
    chosen.found.is_done = False
    text = said(replace(chosen, choice=whole))
    assert "- 10.1 of 10 minutes; 12 runs, on NVIDIA H200\n- all 67,349 train rows, 3 epochs\n- 3 combinations" in text
    assert "train\n- the time was too short for all that was planned; the same command with more minutes goes" in text
    assert text.endswith(RUNGS.rstrip() + "\n")  # nothing was left untried
    late = replace(chosen, choice=structs.replace(chosen.choice, spent_s=607))
    assert "- 10.1 of 10 minutes, more than asked for: a run took longer than measured; 12 runs" in said(late)
    for one in (chosen.found.rungs[1], chosen.found.rungs[3]):
        del one[LORA]
    chosen.choice.untried.append(Untried("ia3", "memory: it needs 20 GiB or more"))
    assert said(chosen).endswith(
        "\n\n## Not tried\n\n- dora, ia3: memory: it needs 20 GiB or more\n"
        "- lora rank 8 lr 0.002: the time is too short\n"
    )


def test_combinations_are_listed_by_epochs_and_then_by_score_with_failed_ones_last(chosen: Chosen) -> None:
    early = {Arm("ia3", 1e-3): Score(math.nan), FT: Score(0.5), LORA: Score(0.4), BITFIT: Score(0.9)}
    found = Found({1: early, 3: {FT: Score(math.nan), LORA: Score(0.45, 2.0), ROSA: Score(0.45, 1.0)}}, is_done=False)
    table = said(replace(chosen, found=found)).partition("## All combinations")[2].partition("##")[0]
    assert table.split("| ---: |\n")[1] == (
        "| rosa lr 0.001 | 45.0 | 3 |\n| lora rank 8 lr 0.002 | 45.0 | 3 |\n| ft lr 6e-05 | failed | 3 |\n"
        "| bitfit lr 0.0006 | 90.0 | 1 |\n| ia3 lr 0.001 | failed | 1 |\n\n"
    )


def test_the_command_has_the_users_own_folder_of_settings(chosen: Chosen, tmp_path: Path) -> None:
    own = tmp_path / "my conf"
    own.mkdir()
    with config_dir(str(own)):
        assert f"\nrosa-bench --config-dir '{own}' task=classify protocol=fair" in said(chosen)


def test_without_a_margin_the_best_is_recommended(chosen: Chosen) -> None:
    text, _ = answer(chosen, typed=TYPED, margin=0.0)
    assert text.startswith("# Use ft lr 6e-05\n")
    assert "- against lora rank 8 lr 0.002: +0.3 [-6.8, +7.5], level" in text
    assert "cheaper" not in text


def collapse(chosen: Chosen, *arms: Arm) -> None:
    for arm in arms:
        for run in chosen.found.finals[arm].values():
            run.stopped = Stopped(epoch=2, reason="collapsed")


def test_what_learned_nothing_is_not_recommended(chosen: Chosen) -> None:
    collapse(chosen, FT, LORA)
    text, recommends = answer(chosen, typed=TYPED, margin=0.01)
    assert not recommends
    assert text == (
        "# classify-mpnet-0: no recommendation, as no finalist learned anything\n\n"
        "- every run of lora rank 8 lr 0.002, ft lr 6e-05 gives the same answer for all rows\n"
        "- more rows or epochs may help: a new choice with more minutes, in another results_dir. So may another "
        f"model=; and the labels may not depend on the texts\n\n{FINALISTS}{BASIS}{RUNGS}{UNTRIED}"
    )


def test_a_method_that_learned_is_recommended_before_one_that_did_not(chosen: Chosen) -> None:
    collapse(chosen, LORA)  # level with the other, and cheaper
    text, recommends = answer(chosen, typed=TYPED, margin=0.01)
    assert recommends and text.startswith("# Use ft lr 6e-05\n")
    assert "no other finalist was completed and learned anything" in text
    assert "| lora rank 8 lr 0.002 |" in text


LEADER = """\
# Use ft lr 6e-05, so far

```bash
rosa-bench task=classify protocol=fair 'data=my file.csv' epochs=3 method=ft lr=6e-05 save_model=true
```

"""
LEADS = "it leads with 55.0 on the rows that select, after 3 of 3 epochs, one seed; there is no interval\n"


def test_without_a_finalist_the_leader_is_named_and_how_to_go_on(chosen: Chosen) -> None:
    early = replace(chosen.found, finals={}, is_done=False)
    basis = BASIS.replace(", on NVIDIA H200", "").rstrip("\n")
    assert said(replace(chosen, found=early)) == (
        f"{LEADER}- the time was too short for a finalist; {LEADS}"
        f"- the same command with more minutes goes on\n\n{basis}\n"
        "- the time was too short for all that was planned; the same command with more minutes goes on\n\n"
        f"{RUNGS}{UNTRIED}"
    )


@pytest.mark.parametrize("completed", [False, True])
def test_the_time_is_not_blamed_for_finalists_that_failed(chosen: Chosen, *, completed: bool) -> None:
    """Each of their runs failed, or was completed with a score that is undefined."""
    for run in (run for runs in chosen.found.finals.values() for run in runs.values()):
        run.selected["matthews_correlation"] = None
    ended = chosen.found if completed else replace(chosen.found, finals={})
    text = said(replace(chosen, found=ended))
    assert text.startswith(f"{LEADER}- no run of a finalist ended with a score; {LEADS}\n## What it is based on\n")
    assert "too short" not in text
    assert "more minutes goes on" not in text


def test_a_leader_has_learned_something(chosen: Chosen) -> None:
    rungs = {1: {LORA: Score(0.4), FT: Score(0.5)}, 3: {LORA: Score(0.45), FT: Score(0.55, collapsed=True)}}
    text, recommends = answer(replace(chosen, found=Found(rungs, is_done=False)), typed=TYPED, margin=0.01)
    assert recommends and text.startswith("# Use lora rank 8 lr 0.002, so far\n")
    rungs[3][LORA] = Score(0.45, collapsed=True)
    text, recommends = answer(replace(chosen, found=Found(rungs, is_done=False)), typed=TYPED, margin=0.01)
    assert not recommends and "Use " not in text
    assert "no answer yet\n\nSo far, every run gives the same answer for all rows." in text


def test_without_any_score_there_is_no_recommendation_and_all_is_listed_as_not_tried(chosen: Chosen) -> None:
    text, recommends = answer(replace(chosen, found=Found(is_done=False)), typed=TYPED, margin=0.01)
    assert not recommends
    start = "# classify-mpnet-0: no answer yet\n\nNo run got far enough to be compared.\n\n## What it is based on\n"
    assert text.startswith(start)
    assert "## All" not in text
    assert "- lora rank 8 lr 0.002, ft lr 6e-05, bitfit lr 0.0006: the time is too short" in text


def test_errors_are_shown_as_they_are(chosen: Chosen) -> None:
    found = Found({1: {LORA: Score(-0.25, 0.25), FT: Score(-0.5, 0.5)}}, is_done=False, selects_lowest=True)
    text, _ = answer(replace(chosen, found=found), typed=TYPED, margin=0.01)
    assert text.index("| lora rank 8 lr 0.002 | 0.25 | 1 |") < text.index("| ft lr 6e-05 | 0.5 | 1 |")
