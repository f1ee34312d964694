"""Convert a table of scores to plain rows, one per cell, for programs to read."""

import json

from rosa_bench.report.cells.differences import Difference
from rosa_bench.report.cells.grid import Grid
from rosa_bench.report.cells.selection.learning_rate import MEAN
from rosa_bench.report.cells.selection.select import Cell, Group, choose
from rosa_bench.report.cells.settings import Variant
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.writers.text import span
from rosa_bench.report.writers.tidy_csv import csv_text

# The difference and its interval's ends, times 100; p, alone and by Holm over the section; the number of shared seeds.
VS_LORA = ("vs_lora_x100", "vs_lora_low", "vs_lora_high", "vs_lora_p", "vs_lora_p_holm", "vs_lora_seeds")


def tidy_rows(number: int, grid: Grid) -> list[dict[str, str]]:
    """Return one row for each cell with a figure of ours, in the table's order."""
    ordered = [(variant, task) for variant in grid.variants for task in grid.tasks]
    return [
        {
            **_setting(number, grid.group),
            **_cell(variant, cell),
            "lr_at_an_end": str((variant, task) in grid.open_ended).lower(),
            **_against_baseline(grid.against_baseline.get((variant, task)), grid.holm.get((variant, task))),
            "paper_x100": grid.printed.get((variant, task), ""),
            "best": str(grid.leaders[task] == variant).lower(),
            "runs": " ".join(run.id for run in cell.runs),
        }
        for variant, task in ordered
        if (cell := grid.cell(variant, task))
    ]


def _setting(number: int, group: Group) -> dict[str, str]:
    setting, model = group.setting, group.runs[0].settings.model
    changes = {change.key: change.value for change in setting.deviations}
    return {
        "setting": str(number),
        "model": setting.model,
        "model_note": model.note or "",
        "weights": setting.weights,
        "protocol": setting.protocol,
        "device": setting.device,
        "precision": setting.precision,
        "deviations": json.dumps(changes),
    }


def _cell(variant: Variant, cell: Cell) -> dict[str, str]:
    run, around = cell.runs[0], cell.interval
    per_seed = cell.per_seed
    return {
        "task": run.settings.task.name,
        "metric": run.scores.reported,
        **{f"{split}_rows": str(count) for split, count in run.data.rows.by_split.items()},
        "subset": str(run.data.subset).lower(),
        "synthetic": str(run.data.synthetic).lower(),
        "method": variant.method,
        "rank": csv_text(variant.rank),
        "method_settings": json.dumps({change.key: change.value for change in variant.changes}),
        "trainable_parameters": str(cell.trainable),
        "lr": f"{cell.lr:g}",
        "lrs_tried": str(len(cell.lrs)),
        "configurations_tried": str(len(cell.tried)),
        "lr_by_mean": f"{choose(cell.tried, rule=MEAN).lr:g}",
        "lr_runner_up": csv_text(cell.runner_up, "{:g}"),
        "lrs_left_out": " ".join(f"{lr:g}" for lr in cell.lrs_left),
        "lrs_failed": " ".join(f"{lr:g}" for lr in cell.lrs_failed),
        "selected_on": run.scores.selected_on,
        "seeds": str(len(cell.runs)),
        "collapsed": csv_text(cell.collapsed),
        "mean_x100": _x100(cell.mean),
        "std_x100": _x100(cell.std),
        "interval_low_x100": _x100(around.low if around else None),
        "interval_high_x100": _x100(around.high if around else None),
        "interval_of": around.of if around else "",
        "interval_method": around.method if around else "",
        "per_seed_mean_x100": _x100(per_seed.mean),
        "per_seed_seeds": str(len(per_seed.runs)),
        "last_epoch_mean_x100": _x100(cell.last_mean),
    }


def _against_baseline(difference: Difference | None, holm: float | None) -> dict[str, str]:
    """Return the values of the `VS_LORA` columns, empty if there is nothing to compare with."""
    if difference is None:
        return dict.fromkeys(VS_LORA, "")
    scores = map(_x100, (difference.mean, difference.low, difference.high))
    tests = (csv_text(p, "{:.4g}") for p in (difference.p, holm))
    return dict(zip(VS_LORA, (*scores, *tests, span(difference.seeds)), strict=True))


def _x100(fraction: float | None) -> str:
    return csv_text(SCORES.scaled(fraction), "{:.4f}")
