"""The answer of a choice as a short text in Markdown: what to use, how good it is, what it cost, what was not tried."""

import math
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rosa_bench.choose.candidates import TIME
from rosa_bench.choose.choosing import Chosen
from rosa_bench.choose.measuring import gibibytes
from rosa_bench.choose.plan import Arm, plural
from rosa_bench.config.files.folder import own_folder
from rosa_bench.report.cells.selection.choice import Finalist, Recommendation, recommend, same_memory, verdict
from rosa_bench.report.cells.words.shown import Scale
from rosa_bench.report.writers.text import MIB

SAVE = "save_model=true"


class Answer(NamedTuple):
    """The text, and whether it recommends anything."""

    text: str
    recommends: bool


def answer(chosen: Chosen, *, typed: Sequence[str], margin: float) -> Answer:
    """Return the answer. ``typed`` are the settings of all runs as typed by the user; ``margin`` as in `recommend`."""
    arms = {str(arm): arm for arm in chosen.found.finals}
    finalists = [Finalist(str(arm), runs) for arm, runs in chosen.found.finals.items()]
    whole = [one for one in finalists if all(math.isfinite(score) for score in one.by_seed.values())]
    learned = [one for one in whole if not all(run.has_collapsed for run in one.runs.values())]
    lines: list[str] = []
    if learned:
        found = recommend(learned, margin=margin)
        lines += _recommended(chosen, found, arms[found.chosen.name], typed)
        lines += ["", "## Finalists", "", *_table(chosen, whole)]
    elif whole:
        lines += _nothing_learned(chosen, whole)
        lines += ["", "## Finalists", "", *_table(chosen, whole)]
    elif (leader := chosen.found.leader) is not None:
        lines += _leading(chosen, leader, typed)
    else:
        any_score = any(score.is_known for _, score in chosen.found.latest.values())
        why = (
            "So far, every run gives the same answer for all rows."
            if any_score
            else "No run got far enough to be compared."
        )
        lines += [f"# {chosen.choice.id}: no answer yet", "", why]
    lines += ["", "## What it is based on", "", *(f"- {line}" for line in _basis(chosen, typed))]
    lines += ["", *_rungs(chosen), *_untried(chosen)]
    return Answer("\n".join(lines).rstrip() + "\n", bool(learned) or (not whole and chosen.found.leader is not None))


def command(arm: Arm, typed: Sequence[str], epochs: Sequence[str]) -> str:
    """Return the command that trains an arm on all rows and keeps the model."""
    own = own_folder()
    folder = [] if own is None else ["--config-dir", str(own)]
    return shlex.join(["rosa-bench", *folder, *typed, *epochs, *arm.overrides, SAVE])


def selected_text(score: float, chosen: Chosen) -> str:
    """Return a score on the rows that select, where higher is better."""
    if math.isnan(score):
        return "failed"
    scale = Scale(chosen.found.selects_lowest)
    return scale.text(scale.merit(score))


def _recommended(chosen: Chosen, found: Recommendation, arm: Arm, typed: Sequence[str]) -> Iterator[str]:
    first = next(iter(found.chosen.runs.values()))
    scale, reported = found.chosen.scale, first.scores.reported.replace("_", " ")
    rows = first.data.rows.reported
    yield f"# Use {found.chosen.name}"
    yield from ("", "```bash", command(arm, typed, _epochs(chosen)), "```", "")
    how = found.chosen.interval
    means = "" if how is None else f" [95 % interval over {how.of}, {how.method}]"
    seeds = plural(len(found.chosen.runs), "seed")
    yield (
        f"- {reported}: {scale.text(found.chosen.score, found.chosen.interval)}{means}, {seeds}, "
        f"{rows:,} rows that neither trained nor ranked anything"
    )
    for name, difference in found.against.items():
        yield f"- against {name}: {scale.signed(difference.mean, difference)}, {verdict(difference, scale)}"
    if collapsed := sum(bool(run.has_collapsed) for run in found.chosen.runs.values()):
        yield f"- {collapsed} of its {seeds} give the same answer for all rows, so nothing was learned there"
    if found.best is not found.chosen:
        yield f"- level with {found.best.name}, the best on the rows that select, and cheaper: {_saving(found)}"
    elif not found.against:
        yield "- no other finalist was completed and learned anything, so there is nothing to compare it with"


def _nothing_learned(chosen: Chosen, finalists: Sequence[Finalist]) -> Iterator[str]:
    yield f"# {chosen.choice.id}: no recommendation, as no finalist learned anything"
    yield ""
    yield f"- every run of {', '.join(one.name for one in finalists)} gives the same answer for all rows"
    yield (
        "- more rows or epochs may help: a new choice with more minutes, in another results_dir. So may another "
        "model=; and the labels may not depend on the texts"
    )


def _saving(found: Recommendation) -> str:
    """Say what the chosen finalist saves over the best."""
    ours, theirs = found.chosen, found.best
    parts = []
    if ours.memory_bytes and theirs.memory_bytes and not same_memory(ours, theirs):
        parts.append(f"{gibibytes(ours.memory_bytes)} of memory instead of {gibibytes(theirs.memory_bytes)}")
    if ours.saved_bytes and theirs.saved_bytes:
        parts.append(f"{_mebibytes(ours.saved_bytes)} to store instead of {_mebibytes(theirs.saved_bytes)}")
    return ", ".join(parts)


def _leading(chosen: Chosen, leader: Arm, typed: Sequence[str]) -> Iterator[str]:
    epochs, score = chosen.found.latest[leader]
    shown = selected_text(score.value, chosen)
    yield f"# Use {leader}, so far"
    yield from ("", "```bash", command(leader, typed, _epochs(chosen)), "```", "")
    done = chosen.found.is_done
    why = "no run of a finalist ended with a score" if done else "the time was too short for a finalist"
    yield (
        f"- {why}; it leads with {shown} on the rows that select, after {epochs} of "
        f"{chosen.choice.size.epochs} epochs, one seed; there is no interval"
    )
    if not done:
        yield "- the same command with more minutes goes on"


def _table(chosen: Chosen, finalists: Sequence[Finalist]) -> Iterator[str]:
    first = next(iter(finalists[0].runs.values()))
    yield f"| | {first.scores.reported} [95 %] | on rows that select | memory | to store | seeds |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for one in finalists:
        selected = selected_text(one.selection(one.runs), chosen)
        memory = "–" if one.memory_bytes is None else gibibytes(one.memory_bytes)
        stored = "–" if one.saved_bytes is None else _mebibytes(one.saved_bytes)
        yield (
            f"| {one.name} | {one.scale.text(one.score, one.interval)} | {selected} | {memory} | {stored} | "
            f"{len(one.runs)} |"
        )


def _basis(chosen: Chosen, typed: Sequence[str]) -> Iterator[str]:
    choice, budget = chosen.choice, chosen.budget
    size, rows = choice.size, choice.rows
    kept = ", more than asked for: a run took longer than measured" if choice.spent_s > 1.01 * budget.seconds else ""
    device = next((run.device.name for runs in chosen.found.finals.values() for run in runs.values()), None)
    on = f", on {device}" if device else ""
    yield f"asked: which method for `{shlex.join(typed)}` within {budget.seconds / 60:.3g} minutes"
    yield f"{choice.spent_s / 60:.1f} of {budget.seconds / 60:.3g} minutes{kept}; {chosen.runs} runs{on}"
    if size.rows is None:
        yield f"all {rows.train:,} train rows, {size.epochs} epochs"
    else:
        yield (
            f"{size.rows:,} of {rows.train:,} train rows, {size.epochs} epochs: so many fit the time. With all rows "
            "another choice may be better; a new choice with more minutes, in another results_dir, uses more rows"
        )
    if choice.about:
        yield choice.about
    yield f"{len(size.arms)} combinations by successive halving on rows held out of train"
    if not chosen.found.is_done:
        yield "the time was too short for all that was planned; the same command with more minutes goes on"


def _rungs(chosen: Chosen) -> Iterator[str]:
    latest = chosen.found.latest
    if not latest:
        return
    yield from (
        "## All combinations",
        "",
        "| | score on the rows that select | after epochs |",
        "| --- | ---: | ---: |",
    )
    order = sorted(
        latest, key=lambda arm: (-latest[arm][0], not latest[arm][1].is_known, [-x for x in latest[arm][1].merit])
    )
    for arm in order:
        epochs, score = latest[arm]
        yield f"| {arm} | {selected_text(score.value, chosen)} | {epochs} |"
    yield ""


def _untried(chosen: Chosen) -> Iterator[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in chosen.choice.untried:
        by_reason[one.why].append(one.what)
    if late := [str(arm) for arm in chosen.choice.size.arms if arm not in chosen.found.latest]:
        by_reason[TIME] += late
    if by_reason:
        yield from ("## Not tried", "", *(f"- {', '.join(names)}: {why}" for why, names in by_reason.items()))


def _epochs(chosen: Chosen) -> list[str]:
    """Return the settings that the plan chose and that the recommended run needs as well."""
    return [limit for limit in chosen.choice.limits if limit.startswith("epochs=")]


def _mebibytes(count: float) -> str:
    return f"{count / MIB:.3g} MiB"
