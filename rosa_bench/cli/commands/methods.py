"""List the methods, with what they train and how much on a model, or show the settings of one.

Usage: rosa-bench methods [NAME] [KEY=VALUE ...]

Takes the settings of a run, which change what is listed: model=gpt2, rank=4, protocol=fair. Nothing is downloaded, and
no weights are loaded.

Examples:
  rosa-bench methods
  rosa-bench methods model=gpt2 rank=4
  rosa-bench methods rosa
"""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rosa_bench.cli.messages import report_at_once
from rosa_bench.system.errors import UserError
from rosa_bench.system.resources.collector import collector_paused

if TYPE_CHECKING:
    from rosa_bench.runs.planning.catalogue import Details, Entry

WIDTH = 80
LEGEND = (
    "trained: numbers that train. optimizer: memory of its state. M: merges into plain layers. S: starts from the "
    "model's own function. rosa-bench methods NAME shows one method."
)


@collector_paused()
def main(arguments: list[str]) -> None:
    """Print the table, or one method."""
    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(f"{names[-1]} is not KEY=VALUE (usage: rosa-bench methods [NAME] [KEY=VALUE ...])")
    if any(override.partition("=")[0] == "method" for override in overrides):
        raise UserError("method= is not for this command; name the method alone: rosa-bench methods NAME")

    report_at_once("measuring the methods", arguments)
    from rich import get_console

    from rosa_bench.config.composing.compose import composing
    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.config.overrides.mistakes import check_overrides
    from rosa_bench.runs.planning.catalogue import catalogue, details

    overrides = spelled(overrides)
    check_overrides(overrides)
    with composing() as composer:
        lines = detailed(details(composer, overrides, names[0])) if names else table(catalogue(composer, overrides))
        for line in lines:
            get_console().out(line, highlight=False)


def table(entries: "Iterable[Entry]") -> list[str]:
    """Return the lines of the table, in 80 columns, and below it why methods refuse the model."""
    entries = list(entries)
    left = max(len(one.name) for one in entries)
    room = WIDTH - left - 45
    form = f"{{:<{left}}}  {{:<4}}  {{:<10}}  {{:<{room}}}  {{:>7}}  {{:>9}}  {{:<3}}"
    lines = [form.format("method", "year", "arXiv", "trains", "trained", "optimizer", "MS").rstrip()]
    lines.append(form.format(*("-" * width for width in (left, 4, 10, room, 7, 9, 2))).rstrip())
    for one in entries:
        first, *more = textwrap.wrap(one.trains, room) or [""]
        absent = "refused" if one.refusal else "n/a"
        counts = (absent, "") if one.size is None else (count(one.size.trainable), memory(one.size.optimizer_elements))
        flags = f"{'M' if one.mergeable else '-'}{'S' if one.keeps_function else '-'}"
        cells = (one.name, one.year or "", one.arxiv, first, *counts, "" if one.mergeable is None else flags)
        lines.append(form.format(*cells).rstrip())
        lines += [" " * (left + 20) + line for line in more]
    notes = [
        line for note in (LEGEND, *refusals(entries)) for line in textwrap.wrap(note, WIDTH, break_on_hyphens=False)
    ]
    return [*lines, "", *notes]


def refusals(entries: "Iterable[Entry]") -> list[str]:
    """Return why methods refuse the model, one line per reason: methods without a package share theirs."""
    named: dict[str, list[Entry]] = {}
    for one in entries:
        if one.refusal:
            named.setdefault(one.refusal.removeprefix(f"method={one.name} "), []).append(one)
    return [
        (shared[0].refusal if shared[0].name in shared[0].refusal else f"{shared[0].name}: {reason}")
        if len(shared) == 1
        else f"method={', '.join(one.name for one in shared)}: {reason}"
        for reason, shared in named.items()
    ]


def detailed(found: "Details") -> list[str]:
    """Return the lines about one method."""
    from rosa_bench.cli.help import columns

    one = found.entry
    facts = [("trains", one.trains)]
    if one.paper:
        facts += [("paper", f"{one.paper} ({one.year})"), ("link", one.link)]
    if one.size is not None:
        trained, total = one.size.trainable, one.size.total
        facts.append(("size", f"{trained:,} of {total:,} numbers; optimizer {memory(one.size.optimizer_elements)}"))
    facts += [("refused", one.refusal)] if one.refusal else []
    facts.append(("merges", "into plain layers" if one.mergeable else "no: evaluated and saved as it is"))
    facts.append(("starts", "from the model's own function" if one.keeps_function else "from another function"))
    facts.append(("lr", ", ".join(f"{value:g} ({protocol})" for protocol, value in found.lr.items())))
    settings = [line for name, text in found.settings for line in (f"  {name}", *wrapped(text, indent=6))]
    return [
        f"{found.title} (method={one.name})", "", *wrapped(found.comment), "", columns(facts, width=WIDTH), "",
        *(["Settings and their values:", *settings] if settings else ["It has no settings of its own."]),
    ]  # fmt: skip


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Wrap a text at 80 columns, and keep its own line breaks."""
    lines = [textwrap.wrap(line, WIDTH - indent, break_on_hyphens=False) for line in text.splitlines()]
    return [" " * indent + line for part in lines for line in part]


def count(number: int) -> str:
    """Return a number of parameters in short form.

    >>> count(840), count(626_688), count(124_647_170)
    ('840', '627 k', '124.6 M')
    """
    if number < 1000:
        return str(number)
    return f"{number / 1e3:.0f} k" if number < 999_500 else f"{number / 1e6:.1f} M"


def memory(numbers: int) -> str:
    """Return the memory of this many float32 numbers.

    >>> memory(0), memory(100), memory(1_253_376), memory(249_294_340)
    ('0', '0.4 kB', '5.0 MB', '997 MB')
    """
    size = 4 * numbers
    if size == 0:
        return "0"
    if size < 1e6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"
