"""What the answer says, for made-up choices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rosa_bench.choose.answer import answer
from rosa_bench.choose.budget import Budget
from rosa_bench.choose.candidates import Untried
from rosa_bench.choose.choosing import Chosen
from rosa_bench.choose.halving import Score
from rosa_bench.choose.plan import Arm, Cost, Rows, Size
from rosa_bench.choose.search import Found
from rosa_bench.choose.state import Choice
from rosa_bench.records.mappings import PeakBytes
from rosa_bench.records.measured import Stopped
from rosa_bench.records.record import RunRecord

LORA, FT, BITFIT = Arm("lora", 2e-3, 8), Arm("ft", 6e-5), Arm("bitfit", 6e-4)
TYPED = ["task=classify", "protocol=fair", "data=my file.csv"]


@pytest.fixture
def chosen(make_record: Callable[..., RunRecord]) -> Chosen:
    """LoRA is level with full fine-tuning, which is best on held-out rows and needs four times the memory."""

    def runs(method: str, dev: list[float], held_out: float, gb: int) -> dict[int, RunRecord]:
        made = {}
        for seed, score in enumerate(dev):
            run = make_record("task=cola", f"method={method}", f"seed={seed}", dev=score, held_out=held_out)
            run.memory_bytes = PeakBytes({"train": gb * 2**30})
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


def test_a_cheaper_method_level_with_the_best_is_recommended_with_the_command_for_all_rows(chosen: Chosen) -> None:
    text, recommends = answer(chosen, typed=TYPED, margin=0.01)
    assert recommends
    assert text.startswith("# Use lora rank 8 lr 0.002\n")
    command = (
        "rosa-bench task=classify protocol=fair 'data=my file.csv' epochs=3 method=lora rank=8 lr=0.002 save_model=true"
    )
    assert f"```bash\n{command}\n```" in text
    assert "matthews correlation: 61.7 [56.5, 66.8] [95 % interval over seeds, Student], 3 seeds, 1,043 rows" in text
    assert "- against ft lr 6e-05: -0.3 [-7.5, +6.8], level" in text
    level = "level with ft lr 6e-05, the best on the rows that select, and cheaper:"
    assert f"{level} 1 GiB of memory instead of 4 GiB" in text
    assert "- asked: which method for `task=classify protocol=fair 'data=my file.csv'` within 10 minutes" in text
    assert "- 9.0 of 10 minutes; 12 runs" in text
    assert "- 2,000 of 67,349 train rows, 3 epochs" in text
    assert "| bitfit lr 0.0006 | failed | 1 |" in text
    assert "- dora: memory: it needs 20 GiB or more" in text


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
    assert not recommends and "Use " not in text and "save_model" not in text
    assert text.startswith("# classify-mpnet-0: no recommendation, as no finalist learned anything\n")
    assert "- every run of lora rank 8 lr 0.002, ft lr 6e-05 gives the same answer for all rows" in text
    assert "| ft lr 6e-05 |" in text


def test_a_method_that_learned_is_recommended_before_one_that_did_not(chosen: Chosen) -> None:
    collapse(chosen, LORA)  # level with the other, and cheaper
    text, recommends = answer(chosen, typed=TYPED, margin=0.01)
    assert recommends and text.startswith("# Use ft lr 6e-05\n")
    assert "no other finalist was completed and learned anything" in text
    assert "| lora rank 8 lr 0.002 |" in text


def test_without_a_finalist_the_leader_is_named_and_how_to_go_on(chosen: Chosen) -> None:
    early = replace(chosen.found, finals={}, is_done=False)
    text, recommends = answer(replace(chosen, found=early), typed=TYPED, margin=0.01)
    assert recommends
    assert text.startswith("# Use ft lr 6e-05, so far\n")
    assert "55.0 on the rows that select, after 3 of 3 epochs, one seed; there is no interval" in text
    assert "the same command with more minutes goes on" in text


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
    assert "no answer yet" in text
    assert "- lora rank 8 lr 0.002, ft lr 6e-05, bitfit lr 0.0006: the time is too short" in text


def test_errors_are_shown_as_they_are(chosen: Chosen) -> None:
    found = Found({1: {LORA: Score(-0.25, 0.25), FT: Score(-0.5, 0.5)}}, is_done=False, selects_lowest=True)
    text, _ = answer(replace(chosen, found=found), typed=TYPED, margin=0.01)
    assert text.index("| lora rank 8 lr 0.002 | 0.25 | 1 |") < text.index("| ft lr 6e-05 | 0.5 | 1 |")
