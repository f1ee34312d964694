"""The headline: ROSA minus LoRA by task beside the paper's values, and the place where drawing again does win."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rosa_bench.report.cells.arms import CUT, INTERVALS, is_resampled, period_words
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.facts import fact
from rosa_bench.report.cells.words.header import device_words, lr_text
from rosa_bench.report.cells.words.shown import SCORES
from rosa_bench.report.figures.drawing import Drawing, caption_text, drawn, letter, styled
from rosa_bench.report.figures.headline import capacity, tasks
from rosa_bench.report.figures.headline.capacity import Ladder, ladder_of, place_of, plot_capacity
from rosa_bench.report.figures.headline.tasks import GREY, SMALL, Rivals, plot_tasks, rivals_of
from rosa_bench.report.published import load_published
from rosa_bench.report.writers.text import MISSING, parameters, span, thousands

WIDTH_IN, HEIGHT_IN = 8.0, 3.2


def draw(groups: list[Group]) -> Drawing | None:
    """Draw ROSA minus LoRA by task, and recall by capacity; only one of them without runs of the other."""
    rivals, ladder = rivals_of(groups), ladder_of(groups)
    titles: list[tuple[str, str]] = []
    if rivals:
        titles.append((f"ROSA and LoRA: {tasks.verdict(rivals.mean)}", _setting(rivals)))
    if ladder:
        titles.append((f"Beyond capacity: {capacity.verdict(ladder)}", _data(ladder)))
    if not titles:
        return None
    with styled():
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout=ConstrainedLayoutEngine(wspace=0.06))
        axes = figure.subplots(1, len(titles), squeeze=False)[0]
        if rivals:
            plot_tasks(axes[0], rivals)
        if ladder:
            plot_capacity(axes[-1], ladder)
        for number, (ax, (title, below)) in enumerate(zip(axes, titles, strict=True)):
            _set_titles(ax, f"{letter(number)} {title}", below)
    runs = [*(rivals.runs if rivals else []), *(run for cell in (ladder.cells if ladder else []) for run in cell.runs)]
    return Drawing("headline", figure, _caption(rivals, ladder), frozenset(run.id for run in runs))


def _set_titles(ax: Axes, title: str, below: str) -> None:
    ax.set_title(drawn(title), loc="left", weight="bold", fontsize=8.5, pad=15)
    ax.annotate(
        drawn(below), (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", fontsize=SMALL,
        color=GREY,
    )  # fmt: skip


def _setting(found: Rivals) -> str:
    """Name the left part's model, rank, protocol and seeds."""
    setting = found.group.setting
    title = found.group.runs[0].settings.model.title
    return f"{title}, rank {found.rank}, protocol {setting.protocol}, {span(found.mean.seeds)} seeds"


def _data(found: Ladder) -> str:
    """Name the right part's model and data."""
    names = thousands(int(fact(found.run, "pairs") or 0))
    seeds = span({len(cell.runs) for cell in found.cells})
    return f"{found.run.settings.model.title}, {names} numbers, {seeds} seeds"


def _caption(rivals: Rivals | None, ladder: Ladder | None) -> str:
    said = [f"Bars: {INTERVALS}."]
    sources, tables = [], []
    if rivals:
        said.append(
            "ROSA minus LoRA: differences of scores times 100, paired over seeds, each method at its best learning "
            "rate, as in rosa-bench compare method=rosa,lora. The mean takes tasks as fixed strata (Satterthwaite). "
            f"ROSA is the paper's, {_period(rivals)}. Stars: the same difference of {load_published('table2').source} "
            "(single runs of RoBERTa-base, chosen on dev). Runs that collapsed are counted in."
        )
        sources.append(_rivals_source(rivals))
        tables.append(_rivals_table(rivals))
    if ladder:
        said.append(
            "Capacity: the fraction of names whose random number a decoder recalls exactly, against the information "
            "in all numbers per trained parameter. To the left there are more parameters for the same data. LoRA of "
            "every rank is joined; ROSA of one rank is darker the more often its subspace is drawn again. At equal x "
            f"methods train equally many parameters. {CUT} Figure capacity has every arm and other models."
        )
        sources.append(_ladder_source(ladder))
        tables.append(_ladder_table(ladder))
    return caption_text(title="Headline.", text=" ".join(said), sources=sources, tables=tables)


def _period(found: Rivals) -> str:
    ours = (run for one, _ in found.pairs.values() for run in one.runs)
    return " or ".join(sorted({f"drawn again {period_words(run)}" for run in ours if is_resampled(run)}))


def _rivals_source(found: Rivals) -> str:
    few = [f"{found.titles[task]} ({found.differences[task].seeds[0]})" for task in found.pairs.keys() - found.shown]
    left = f" Only in the table, with fewer seeds: {', '.join(sorted(few))}." if few else ""
    return f"{_setting(found)}; {device_words(found.runs)}.{left}"


def _ladder_source(found: Ladder) -> str:
    return f"{_data(found)}; {device_words([run for cell in found.cells for run in cell.runs])}."


def _rivals_table(found: Rivals) -> list[list[str]]:
    """Tabulate the differences: one row per task, those that are drawn first, and their mean."""
    lines = [["task", "ROSA minus LoRA", "paper", "seeds", "collapsed, ROSA and LoRA", "lr of ROSA", "lr of LoRA"]]
    shown = found.shown
    for task in [*shown, *sorted(found.pairs.keys() - shown)]:
        ours, theirs = found.pairs[task]
        collapsed = f"{ours.collapsed or 0} and {theirs.collapsed or 0}"
        own = SCORES.signed(found.differences[task].mean, found.differences[task])
        printed = SCORES.signed(found.paper[task]) if task in found.paper else MISSING
        seeds = span(found.differences[task].seeds)
        lines.append([found.titles[task], own, printed, seeds, collapsed, lr_text(ours), lr_text(theirs)])
    printed = MISSING if found.paper_mean is None else SCORES.signed(found.paper_mean)
    mean = [
        f"mean of the first {len(shown)}",
        SCORES.signed(found.mean.mean, found.mean),
        printed,
        span(found.mean.seeds),
    ]
    return [*lines, [*mean, "", "", ""]]


def _ladder_table(found: Ladder) -> list[list[str]]:
    """Tabulate recall: one row per arm."""
    arms = [
        *([("FT", found.whole)] if found.whole else []),
        *((f"LoRA r={rank}", cell) for rank, cell in found.lora.items()),
        *((f"ROSA r={found.rank}, {period}", cell) for period, cell in found.rosa.items()),
    ]
    lines = [["arm", "trained", "data, bits per parameter", "recall, %", "lr", "seeds"]]
    for name, cell in arms:
        x, y = place_of(cell)
        lines.append(
            [name, parameters(cell.trainable), f"{x:.3g}", y.text("{:.1f}"), lr_text(cell), str(len(cell.runs))]
        )
    return lines
