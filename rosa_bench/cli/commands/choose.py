"""Choose a method, its rank and its learning rate on your data, within a budget of minutes and memory.

Usage: rosa-bench choose data=FILE model=MODEL minutes=30 [memory_gb=16] [KEY=VALUE ...]
       rosa-bench choose task=TASK model=MODEL minutes=30 [KEY=VALUE ...]

Measures every method by a few steps, and plans as many rows, epochs and combinations as fit the budget. Only the best
third of the combinations goes on from each round to the next; the finalists run with several seeds. Prints what to use,
its score with an interval, and the differences from the runner-up and from full fine-tuning.

The same command continues a choice that was stopped; with more minutes it finishes what the time was too short for.
Settings of rosa-bench run apply to all runs. All runs are ordinary records, kept with the answer and the plan in
outputs/, apart from other results, unless results_dir= says otherwise.

Exit status: 0 with a recommendation, 1 without, 130 after Ctrl-C, 143 after SIGTERM.

Examples:
  rosa-bench choose data=reviews.csv model=mpnet_base minutes=30
  rosa-bench choose data=reviews.csv model=auto model.path=~/models/mine minutes=30 memory_gb=16
  rosa-bench choose task=cola model=minilm minutes=20 methods=lora,ft ranks=2,8
"""

import logging
from dataclasses import dataclass

from rosa_bench.cli.options import names_of, options_and_settings
from rosa_bench.system.errors import UserError, did_you_mean
from rosa_bench.system.setting import Checked, setting

CHOSEN = {
    "method": "methods",
    "rank": "ranks",
    "lr": "lr_half_decades",
    "seed": "seeds",
}
DEFAULTS = {"protocol": "fair", "results_dir": "outputs"}


@dataclass
class Options(Checked):
    """Options of ``rosa-bench choose``."""

    minutes: float = setting("how long it may take, in all", default=30.0, above=0, at_most=10**6)
    memory_gb: float | None = setting(
        "memory that a run may use, in GiB; null: what is free on the device", default=None, above=0, at_most=10**6
    )
    # The methods with the best evidence (docs/findings.md), in its order. (IA)³ and the head alone are far behind them.
    methods: str = setting("methods to try, the most promising first", default="lora,ft,rosa,bitfit")
    # On tasks like those of GLUE, LoRA of rank 2 is not shown to lose anything (docs/evidence.md, C20).
    ranks: str = setting("ranks to try, of methods that have one", default="8,2")
    lr_half_decades: str = setting(
        "learning rates to try, in half decades from each method's own: 0,-1,1 tries 2e-3, 6e-4, 6e-3",
        default="0,-1,1",
    )
    seeds: int = setting("how many seeds the finalists get", default=3, at_least=1, at_most=1000)
    reference: str = setting("method that the choice is compared with, if it is tried", default="ft")
    margin: float = setting(
        "points that memory is worth: a method that is level with the best, and at most so far behind, is preferred if "
        "it needs less",
        default=1.0, at_least=0, at_most=100,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Make the choice, print the recommendation, and write it beside the plan."""
    from rich import get_console

    from rosa_bench.choose.answer import answer
    from rosa_bench.choose.choosing import Request, choose
    from rosa_bench.cli.commands.run import next_command
    from rosa_bench.config.overrides.grammar import spelled
    from rosa_bench.config.overrides.mistakes import check_overrides
    from rosa_bench.system.files.atomic import write_atomic

    options, others = options_and_settings(Options, arguments)
    typed = with_defaults(others)
    given = spelled(typed)
    check_overrides(given)
    request = Request(
        given=given,
        minutes=options.minutes,
        memory_gb=options.memory_gb,
        methods=options.methods.split(","),
        ranks=whole_numbers("ranks", options.ranks, least=1),
        lr_half_decades=whole_numbers("lr_half_decades", options.lr_half_decades),
        seeds=options.seeds,
        reference=options.reference,
    )
    log_to_console()
    chosen = choose(request)
    found = answer(chosen, typed=typed, margin=options.margin / 100)
    path = chosen.path.with_suffix(".md")
    write_atomic(path, found.text)
    get_console().out(found.text, highlight=False)
    if not found.recommends:
        raise UserError(f"there is no recommendation; see {path}")
    listed = next_command("ls", str(chosen.path.parents[1]))
    get_console().out(f"\nThis answer is in {path}; {listed} lists its runs.", highlight=False)


def with_defaults(others: list[str]) -> list[str]:
    """Return the settings of all runs: task=classify for data=, protocol=fair, and a folder apart from other results.

    Raises `UserError` for a setting that is chosen.

    >>> with_defaults(["data=mine.csv", "batch_size=8"])
    ['task=classify', 'protocol=fair', 'results_dir=outputs', 'data=mine.csv', 'batch_size=8']
    """
    from rosa_bench.config.files.folder import groups
    from rosa_bench.config.overrides.mistakes import settings

    keys = {argument.partition("=")[0].lstrip("+~") for argument in others}
    for key in keys & CHOSEN.keys():
        raise UserError(f"rosa-bench choose chooses {key} itself; leave it out, or give {CHOSEN[key]}=")
    known = [*names_of(Options), *settings(), *groups()]
    for argument in others:
        key = argument.partition("=")[0]
        name = key.lstrip("+~").partition(".")[0]
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"{key} is not an option or a setting{near} (options: {', '.join(names_of(Options))})")
    if not keys & {"task", "data", "experiment"}:
        raise UserError("rosa-bench choose needs data=FILE, or task=TASK")
    task = [] if keys & {"task", "experiment"} else ["task=classify"]
    defaults = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in keys]
    return [*task, *defaults, *others]


def whole_numbers(key: str, text: str, *, least: int | None = None) -> list[int]:
    """Return the different whole numbers in a list with commas. Raises `UserError` for anything else.

    >>> whole_numbers("ranks", "8,2,8")
    [8, 2]
    """
    try:
        found = [int(part) for part in text.strip("[]").split(",")]
    except ValueError:
        found = []
    if not found or (least is not None and min(found) < least) or max(map(abs, found), default=0) > 10**6:
        raise UserError(f"{key}={text} must be whole numbers{f' from {least}' if least else ''}, separated by commas")
    return list(dict.fromkeys(found))


def log_to_console() -> None:
    """Show the progress of the choice, and errors of its runs."""
    from rosa_bench.system.console import ConsoleHandler

    root = logging.getLogger()
    if not any(isinstance(handler, ConsoleHandler) for handler in root.handlers):
        root.addHandler(ConsoleHandler())
    logging.getLogger("rosa_bench").setLevel(logging.ERROR)
    logging.getLogger("rosa_bench.choose").setLevel(logging.INFO)
