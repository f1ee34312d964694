from collections.abc import Callable

from rosa_bench.records.record import RunRecord
from rosa_bench.report.writers.card import Export, model_card


def test_a_card_lists_what_an_older_record_does_not_call_a_deviation(make_referenced: Callable[..., RunRecord]) -> None:
    run = make_referenced(1.25, deviations={"task.score": ["loss", "bleu"]})
    _, _, below = model_card(run, [run], Export("peft", "CAUSAL_LM", None, ())).partition("## Deviations")
    _, _, *rows = [line for line in below.splitlines() if line.startswith("|")]
    changes = [[cell.strip().replace("\\", "") for cell in row.split("|")[1:3]] for row in rows]
    assert changes == [["epochs", "1"], ["task.decoding", "None"], ["task.score", "loss"]]
