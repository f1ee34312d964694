"""Factories for several records of one kind; `make_record` makes a single one."""

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import pytest

from rosa_bench.records.record import RunRecord, from_values, to_values

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def over_seeds(make_record: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``over_seeds([0.5, 0.6], "method=lora")``: one record per dev score, with seeds 0, 1, ..."""

    def make(dev: Iterable[float], *overrides: str, **changes: Any) -> list[RunRecord]:
        return [make_record(*overrides, f"seed={seed}", dev=score, **changes) for seed, score in enumerate(dev)]

    return make


@pytest.fixture
def make_synthetic(make_record: MakeRecord) -> MakeRecord:
    """``make_synthetic([[0.5, 0.1], [0.6, 0.2]], "method=lora")``: a run with these losses, (replicates, epochs).

    bounds     ``best_of_rank`` on dev, (replicates, ranks from 0)
    held_out   score of the selected epoch on held-out rows, if those select
    """

    def make(
        losses: list[list[float]],
        *overrides: str,
        bounds: list[list[float]] | None = None,
        held_out: float | None = None,
        **changes: Any,
    ) -> RunRecord:
        epochs = [
            {"mse": fmean(each), "loss": sum(each), **{f"mse.{number}": value for number, value in enumerate(each)}}
            for each in zip(*losses, strict=True)
        ]
        best = min(epochs, key=lambda scores: scores["mse"])
        scores = {
            "reported": "mse",
            "lower_is_better": True,
            "signature": "",
            "epochs": [{"train_loss": each["loss"], "scores": each, "time_s": 1.0} for each in epochs],
            "selected_on": "validation" if held_out is None else "held_out",
            "selection_score": best["mse"] if held_out is None else held_out,
            "selected": {"epoch": epochs.index(best) + 1, **best},
            "last": {"epoch": len(epochs), **epochs[-1]},
        }
        known = {} if bounds is None else {"best_of_rank": {"train": bounds, "validation": bounds}}
        return make_record(
            "task=synthetic", f"task.replicates={len(losses)}", f"epochs={len(epochs)}", *overrides,
            data={"source": "embedded", "fingerprint": str(losses), **known}, scores=scores,
            **{"device": {"type": "cpu", "name": "some CPU", "precision": "float32"}, **changes},
        )  # fmt: skip

    return make


@pytest.fixture
def make_written(make_record: MakeRecord) -> MakeRecord:
    """``make_written([30.0, 9.0], "method=lora", bleu=0.6)``: a run with these dev perplexities, one per epoch.

    bleu, bleu_cased, nist, perplexity  on test, for the selected epoch; ``last`` is BLEU on test for the last epoch
    """

    def make(
        perplexities: list[float],
        *overrides: str,
        bleu: float = 0.6,
        bleu_cased: float = 0.55,
        nist: float = 7.25,
        perplexity: float = 3.5,
        last: float | None = None,
        data: dict[str, Any] | None = None,
        **changes: Any,
    ) -> RunRecord:
        best = min(range(len(perplexities)), key=perplexities.__getitem__)
        figures = {"bleu": bleu, "bleu_cased": bleu_cased, "nist": nist, "perplexity": perplexity, "loss": 1.2}
        scores = {
            "reported": "bleu",
            "lower_is_better": False,
            "selected_by": {"name": "perplexity", "lower_is_better": True},
            "signature": "",
            "epochs": [
                {"train_loss": 5.0 - number, "scores": {"perplexity": value, "loss": 1.0}, "time_s": 1.0}
                for number, value in enumerate(perplexities)
            ],
            "selected_on": "validation_split",
            "selection_score": perplexities[best],
            "selected": {"epoch": best + 1, **figures},
            "last": {"epoch": len(perplexities), **figures, "bleu": bleu if last is None else last},
            "generations": "a.generations.jsonl",
        }
        record = make_record("task=e2e_nlg", f"epochs={len(perplexities)}", *overrides, scores=scores, **changes)
        values, rows = to_values(record), record.setting("task.rows")
        values["data"] |= {
            "rows": {"train": rows["train"], "held_out": 0, "validation": rows["validation"], "test": rows["test"]},
            "official_rows": rows,
            "prompts": {"validation": 547, "test": 630},
        } | (data or {})
        return from_values({**values, "id": "-".join(map(str, [record.id, bleu, *perplexities]))})

    return make
