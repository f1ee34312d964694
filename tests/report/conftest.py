"""Factories for several records of one kind; `make_record` makes a single one."""

import math
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import pytest

from rosa_bench.records.parts.measured import EpochScores
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


@pytest.fixture
def make_referenced(make_written: MakeRecord) -> MakeRecord:
    """``make_referenced(1.2, "method=lora")``: a run scored by this loss of the test references; no text is written.

    metric     the reported score: ``loss``, or ``perplexity``, its exponential
    held_out   loss of the validation references, which select
    memory     peak bytes in training
    """

    def make(
        loss: float,
        *overrides: str,
        metric: str = "loss",
        held_out: float | None = None,
        memory: int | None = 2**30,
        **changes: Any,
    ) -> RunRecord:
        more = {} if memory is None else {"memory_bytes": {"train": memory}}
        asked = ("task.decoding=null", f"task.score={metric}", "protocol=fair", *overrides)
        selecting = math.exp(loss if held_out is None else held_out)
        values = to_values(make_written([selecting], *asked, bleu=loss, **more, **changes))
        figures = {"epoch": 1, "perplexity": math.exp(loss), "loss": loss}
        values["scores"] |= {"reported": metric, "lower_is_better": True, "selected": figures, "last": figures}
        del values["scores"]["generations"]
        return from_values(values)

    return make


@pytest.fixture
def make_memorised(make_record: MakeRecord) -> MakeRecord:
    """``make_memorised(0.5, "method=lora", bits=1000.0)``: a run on the phone book with this recall.

    pairs      names in the book, each with 8 digits
    bits       ``bits_stored``; by default the share of the data that is recalled
    loss       per digit; by default what is left of the data
    memory     peak bytes in training
    """

    def make(
        recall: float,
        *overrides: str,
        pairs: int = 4096,
        bits: float | None = None,
        loss: float | None = None,
        memory: int = 2**30,
        deviations: dict[str, list[Any]] | None = None,
        **changes: Any,
    ) -> RunRecord:
        whole = pairs * 8 * math.log2(10)
        found = {
            "recall": recall,
            "digit_accuracy": recall,
            "bits_stored": recall * whole if bits is None else bits,
            "loss": (1 - recall) * math.log(10) if loss is None else loss,
        }
        scores = {
            "reported": "recall",
            "selected_by": {"name": "loss", "lower_is_better": True},
            "signature": "",
            "epochs": [],
            "selected_on": "train",
            "selection_score": found["loss"],
            "selected": {"epoch": 2, **found},
            "last": {"epoch": 2, **found},
        }
        more = {} if pairs == 4096 else {"task.pairs": [pairs, 4096]}
        return make_record(
            "task=phonebook", "protocol=fair", f"task.pairs={pairs}", "epochs=2", *overrides, dev=recall,
            deviations={**(deviations or {}), **more}, scores=scores, memory_bytes={"train": memory},
            data={
                "source": "embedded",
                "fingerprint": f"phonebook {pairs}",
                "rows": {"train": pairs, "held_out": 0, "validation": 0},
                "official_rows": {},
                "facts": {"pairs": pairs, "digits": 8, "bits": whole},
            },
            **changes,
        )  # fmt: skip

    return make


@pytest.fixture
def make_continued(make_record: MakeRecord) -> MakeRecord:
    """``make_continued(1.7, "method=lora", forgotten=0.2)``: a run on the new language with this held-out loss.

    held_out   loss on the rows that select
    forgotten  rise of the loss on another task's text; None: not recorded
    memory     peak bytes in training
    """

    def make(
        loss: float,
        *overrides: str,
        held_out: float | None = None,
        forgotten: float | None = None,
        entropy: float | None = 1.25,
        memory: int = 2**30,
        **changes: Any,
    ) -> RunRecord:
        figures = {"loss": loss, "bits_per_character": 1.5 * loss}
        selected = loss if held_out is None else held_out
        scores = {
            "reported": "loss",
            "lower_is_better": True,
            "signature": "",
            "epochs": [],
            "selected_on": "held_out",
            "selection_score": selected,
            "selected": {"epoch": 2, **figures},
            "last": {"epoch": 2, **figures},
        }
        facts = {"characters": 60000, "tokens": 40000} | ({} if entropy is None else {"entropy": entropy})
        before = {"task": "restaurants", "before": 2.0, "selected": 2.0 + (forgotten or 0), "last": 9.0}
        return make_record(
            "task=new_language", "protocol=fair", "epochs=2", *overrides, dev=loss, scores=scores,
            memory_bytes={"train": memory}, forgetting=None if forgotten is None else before,
            data={
                "source": "embedded",
                "fingerprint": "new_language",
                "rows": {"train": 4000, "held_out": 96, "validation": 256},
                "official_rows": {},
                "facts": facts,
            },
            **changes,
        )  # fmt: skip

    return make


@pytest.fixture
def make_texts(make_written: MakeRecord, make_referenced: MakeRecord) -> Callable[..., list[RunRecord]]:
    """``make_texts(**changes)``: runs on E2E, scored by BLEU and, of enough methods to compare, by a loss."""

    def make(**changes: Any) -> list[RunRecord]:
        written = [make_written([9.0, 5.0], f"method={method}", **changes) for method in ("ft", "lora")]
        named = ("ft", "lora", "rosa", "ia3")
        return [*written, *(make_referenced(1.5, f"method={method}", memory=None, **changes) for method in named)]

    return make


@pytest.fixture
def every_kind(
    make_record: MakeRecord,
    make_synthetic: MakeRecord,
    make_texts: Callable[..., list[RunRecord]],
    make_memorised: MakeRecord,
    make_continued: MakeRecord,
) -> list[RunRecord]:
    """Records of every kind of task with every field filled in, enough for each table and figure."""
    spectrum = {
        "ranks": [1, 2, 4],
        "weights": {
            f"layer.{number}.attention.q": {
                "rank": 3, "norm": 1.5, "norm_before": 9.0, "sum": 2.0, "sums": [1.0, 1.5, 2.0]
            }
            for number in range(2)
        },
    }  # fmt: skip
    full: dict[str, Any] = {
        "memory_bytes": {"load": 2**29, "train": 2**30, "resample": 2**30},
        "time_s": {"load": 1.0, "train": 60.0, "resample": 3.0, "total": 80.0},
        "spectrum": spectrum,
        "versions": {"torch": "2.11", "transformers": "5.12", "python": "3.11"},
        "git": {"commit": "0123456789", "dirty": False},
        "resamples": 4,
    }
    runs = []
    for seed in (0, 1):
        for method, changes in (("lora", {}), ("rosa", {}), ("rosa", {"method.resample_every": [0, 2.0]})):
            for lr in ("1e-3", "1e-4"):
                asked = [f"{key}={value}" for key, (value, _) in changes.items()]
                runs.append(
                    make_record(
                        "task=cola", f"method={method}", f"lr={lr}", f"seed={seed}", "epochs=2", *asked,
                        dev=0.5 + 0.01 * seed, deviations=changes, **full,
                    )
                )  # fmt: skip
    runs.append(
        make_record(
            "task=cola", "method=rosa", "pad_to_max=true", deviations={"pad_to_max": [True, False]}, **full
        )
    )  # fmt: skip
    for run in runs:
        reported = run.scores.reported
        run.scores.epochs = [
            EpochScores(train_loss=1 / epoch, scores={reported: 0.1 * epoch, "loss": 1.0}, time_s=float(epoch))
            for epoch in range(1, run.settings.epochs + 1)
        ]
        run.last["spread"] = 0.9
    bounds = [[1.0, 0.8, 0.5, 0.4, 0.3]]
    runs += [make_synthetic([[0.5, 0.3]], f"method={m}", "rank=2", bounds=bounds, **full) for m in ("lora", "rosa")]
    runs += make_texts(**full)
    runs += [make_memorised(0.5, f"method={method}", resamples=3) for method in ("lora", "rosa")]
    runs += [make_continued(1.5, f"method={method}", forgotten=0.5) for method in ("ft", "rosa")]
    return runs
