"""A list of runs in the terminal, one line each; what all of them share is said once, above."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.settings import METHOD, variant_of, words
from rosa_bench.report.cells.shown import metric, scale, score_text
from rosa_bench.report.writers.text import MISSING, times
from rosa_bench.system.printable import printable

GAP = 2  # blanks between columns
LEAST = 10  # width to which a column may be cut
CUT = ("method", "model", "task")
COMPLETED = "completed"  # said of a run only if all are
RULE = "─"


@dataclass(frozen=True)
class Column:
    """A column: its title, its text for a run, and whether it is a figure. A shared one is said above the list."""

    title: str
    text: Callable[[RunRecord], str]
    figure: bool = False
    shared: bool = False


COLUMNS = (
    Column("started", lambda run: run.started_at[5:16].replace("T", " ")),
    Column("task", lambda run: run.settings.task.name, shared=True),
    Column("model", lambda run: run.settings.model.name, shared=True),
    Column("protocol", lambda run: run.settings.protocol.name, shared=True),
    Column("method", lambda run: method_words(run), shared=True),
    Column("lr", lambda run: f"{run.settings.lr:g}", figure=True, shared=True),
    Column("seed", lambda run: str(run.settings.seed), figure=True, shared=True),
    Column("score", lambda run: _score(run), figure=True),
    Column("time", lambda run: duration(run.time_s.total), figure=True),
    Column("status", lambda run: run.status, shared=True),
)
FIGURES = frozenset(column.title for column in COLUMNS if column.figure)
LEFT_OUT_FIRST = ("started", "time", "protocol")  # where the terminal is too narrow


def print_runs(runs: Sequence[RunRecord], ids: Iterable[str], console: Console) -> None:
    """Print runs in this order. ``ids`` are those of all runs in the folder, among which a short id must be unique."""
    short = short_ids(ids)
    texts = {column.title: [printable(column.text(run)) for run in runs] for column in COLUMNS}
    alike = {column.title: texts[column.title][0] for column in COLUMNS if is_shared(column, texts[column.title])}
    said = [f"{key}={text}" for key, text in alike.items()]
    if (name := _metric(runs)) is not None:
        said.append(f"score: {name}")
    if said:
        console.print(Text(printable(" ".join(["all:", *said])), style="dim"))
    shown = {"run": [short[run.id] for run in runs], **{key: it for key, it in texts.items() if key not in alike}}
    if "status" in shown:
        shown["status"] = ["" if text == COMPLETED else text for text in shown["status"]]
    shown = fitting(shown, console.width)
    widths = narrowed({title: _width(shown, title) for title in shown}, console.width)
    heads = {title: title for title in shown}
    console.print(Text(_line(heads, widths), style="bold"), soft_wrap=True)
    console.print(Text(_line({title: RULE * widths[title] for title in shown}, widths)), soft_wrap=True)
    for row in zip(*shown.values(), strict=True):
        console.print(Text(_line(dict(zip(shown, row, strict=True)), widths)), soft_wrap=True)


def is_shared(column: Column, texts: Sequence[str]) -> bool:
    """Return whether several runs have the same text in a column that is then left out."""
    return column.shared and len(texts) > 1 and len(set(texts)) == 1


def fitting(shown: Mapping[str, list[str]], width: int) -> dict[str, list[str]]:
    """Leave out columns, the least useful first, until the others fit the width."""
    kept = dict(shown)
    for title in LEFT_OUT_FIRST:
        if _together(_width(kept, one) for one in kept) <= width:
            break
        kept.pop(title, None)
    return kept


def narrowed(widths: Mapping[str, int], width: int) -> dict[str, int]:
    """Narrow the columns that may be cut, one after the other, until a line fits the width.

    >>> narrowed({"run": 10, "method": 60, "score": 5}, 80), narrowed({"run": 10, "method": 90, "score": 5}, 80)
    ({'run': 10, 'method': 60, 'score': 5}, {'run': 10, 'method': 61, 'score': 5})
    """
    found = dict(widths)
    for title in CUT:
        too_much = _together(found.values()) - width
        if title in found and too_much > 0:
            found[title] = max(min(LEAST, found[title]), found[title] - too_much)
    return found


def short_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """Return each id's last part, or the whole id if another run has the same.

    >>> short_ids(["a-r2-1f", "b-r4-2e", "c-r8-2e"])
    {'a-r2-1f': '1f', 'b-r4-2e': 'b-r4-2e', 'c-r8-2e': 'c-r8-2e'}
    """
    ids = list(ids)
    counts = Counter(one.rpartition("-")[2] for one in ids)
    return {one: end if counts[end := one.rpartition("-")[2]] == 1 else one for one in ids}


def method_words(run: RunRecord) -> str:
    """Name a run's method with its rank and its changed settings, as they are typed: ``rosa r=4 resample_every=5``."""
    variant = variant_of(run)
    rank = [] if variant.rank is None else [f"r={variant.rank}"]
    changes = [f"{change.key.removeprefix(METHOD)}={words(change.value)}" for change in variant.changes]
    return " ".join([variant.method, *rank, *changes])


def duration(time_s: float | None) -> str:
    """Format a time in its unit.

    >>> duration(None), duration(12.34), duration(200), duration(7260)
    ('–', '12.3 s', '3.3 min', '2.0 h')
    """
    if time_s is None:
        return MISSING
    for size, unit in ((3600, "h"), (60, "min")):
        if time_s >= size:
            return f"{time_s / size:.1f} {unit}"
    return f"{time_s:.1f} s"


def _score(run: RunRecord) -> str:
    found = times(scale(run), run.selected.get(run.scores.reported))
    return MISSING if found is None else score_text(run, found)


def _metric(runs: Iterable[RunRecord]) -> str | None:
    """Name the metric of all runs, with its factor; None if they differ, or if no run has one."""
    names = {f"{metric(run)}{'' if run.scores.lower_is_better else ' x 100'}" for run in runs if run.scores.reported}
    return names.pop() if len(names) == 1 else None


def _width(shown: Mapping[str, list[str]], title: str) -> int:
    """Return the width of a column without its gap; 0 if it is not shown."""
    return max(map(cell_len, [title, *shown[title]])) if title in shown else 0


def _together(widths: Iterable[int]) -> int:
    """Return the width of a line."""
    widths = list(widths)
    return sum(widths) + GAP * (len(widths) - 1)


def _line(texts: Mapping[str, str], widths: Mapping[str, int]) -> str:
    """Return one line of the list: figures to the right, and a text that is too long with an ellipsis."""
    cells = []
    for title, text in texts.items():
        room = widths[title]
        short = text if cell_len(text) <= room else f"{set_cell_size(text, room - 1)}…"
        blank = " " * (room - cell_len(short))
        cells.append(blank + short if title in FIGURES else short + blank)
    return (" " * GAP).join(cells).rstrip()
