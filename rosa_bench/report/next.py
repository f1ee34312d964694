"""``rosa-bench next``: list the runs that the tables still need before their learning rates and spread can be trusted.

If a cell has a runner-up learning rate, it needs the seeds that either of the two lacks. If the chosen learning rate is
at an end of those tried, a better one may lie beyond: the next one is run with one seed, which shows whether more are
worthwhile. If the chosen learning rate is inside the range, it needs more seeds, because it appears in the table.
"""

import logging
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.composing.chosen_model import AUTO, model_overrides
from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.folder import own_folder
from rosa_bench.config.groups import names_in
from rosa_bench.config.identity.run_id import free_settings, is_identity, public_config
from rosa_bench.config.overrides.grammar import LONGEST, written
from rosa_bench.config.overrides.mistakes import check_setting, composition_errors
from rosa_bench.config.schema import half_decades
from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Cell, Group, select
from rosa_bench.report.cells.settings import GROUPS, frozen
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.system.errors import UserError, one_of

log = logging.getLogger(__name__)


def next_commands(records: Sequence[RunRecord], *, seeds: int, more: Sequence[str] = ()) -> list[str]:
    """Return one command for each cell in the tables of ``records`` that needs runs, ordered by setting.

    ``seeds`` is how many the chosen learning rate should have. ``more`` are overrides, in Hydra's grammar, to add to
    every command. A learning rate at which a run failed is not suggested again. Forgetting is measured as before.
    Records may come from anybody, so a command is returned only if it composes to the settings of its record; other
    cells are named in the log.
    """
    commands = []
    with composing() as composer:
        for cell, lrs, some in _wanted(records, seeds):
            run = cell.runs[0]
            try:
                settings = [*repeated(run, composer, more), *_measured(run, more)]
            except UserError as error:
                log.warning("a run of %s cannot be repeated: %s", _shown(run), error)
                continue
            arguments = [*settings, f"lr={_several(lrs)}", f"seed={_several(some)}", *more]
            commands.append(shlex.join(["rosa-bench", *_config_dir(), "-m", *arguments]))
    return list(dict.fromkeys(commands))  # cells with different data of one's own have the same settings


def _measured(run: RunRecord, more: Sequence[str]) -> list[str]:
    """Return the override that measures forgetting as the run did, unless ``more`` has another."""
    if run.forgetting is None or any(override.startswith("forgetting_on=") for override in more):
        return []
    one_of("forgetting_on", run.forgetting.task, names_in("task"))
    return [f"forgetting_on={run.forgetting.task}"]


def repeated(run: RunRecord, composer: Composer, more: Sequence[str] = ()) -> list[str]:
    """Return the overrides that compose to a run's settings with ``more``, without its learning rate and seed.

    Raises `UserError`, which names the setting, if a value in the record is not one that the settings accept, or if
    the composed settings differ from it. Only settings that can change a score are read from the record.
    """
    values = {group: run.setting(f"{group}.name") for group in GROUPS}
    model = _model_overrides(run, more)
    for group, name in {**values, "model": model["model"]}.items():
        one_of(group, _printable(group, name), names_in(group))
    if run.settings.method.rank is not None:
        values["rank"] = run.settings.method.rank
    changes = changes_of(run)
    for key in sorted({*run.deviations, *changes}):
        check_setting(_printable("a setting's name", key))
        if not is_identity(key) or key.partition(".")[0] in free_settings():
            raise UserError(f"{key} is not a setting that can differ from the protocol")
    values |= {key: _printable(key, value) for key, (value, _) in changes.items()}
    chosen_as = {**values, **model}
    base = composer.compose(tuple(f"{group}={chosen_as[group]}" for group in GROUPS))
    plain: Any = OmegaConf.to_container(base, resolve=False)
    # Hydra wants a plus before a setting whose default is not in the yaml.
    overrides = [f"{'' if _has(plain, key) else '+'}{key}={written(value)}" for key, value in chosen_as.items()]
    chosen = (f"lr={run.settings.lr!r}", f"seed={run.settings.seed}")
    with composition_errors():
        composed = public_config(parse(composer.compose((*overrides, *_places(more), *chosen))))
    places = {**{group: f"{group}.name" for group in GROUPS}, "rank": "method.rank"}
    for key, value in values.items():
        if (found := frozen(_at(composed, places.get(key, key)))) != frozen(value):
            raise UserError(f"{key}={value} in the record becomes {key}={found}")
    return overrides


def _model_overrides(run: RunRecord, more: Sequence[str]) -> dict[str, str]:
    """Return the overrides that choose a run's model, by key, except a folder, which is in ``more``.

    Raises `UserError` if the model has no yaml and came from a folder that ``more`` does not name.
    """
    name = _printable("model", run.setting("model.name"))
    if name in names_in("model"):
        return {"model": name}
    if _places(more):
        return {"model": AUTO}
    if run.model.get("source") == "path":
        raise UserError(f"model={name} came from a folder; add model.path=FOLDER, or --config-dir if it has a yaml")
    hub, revision = (_printable(f"model.{key}", run.model.get(key)) for key in ("id", "revision"))
    if hub is None:
        return {"model": name}  # which is reported as unknown
    return model_overrides(name, path=None, hub=hub, revision=None if revision == "main" else revision)


def _places(more: Sequence[str]) -> list[str]:
    """Return the overrides that say where a model's weights are."""
    return [override for override in more if override.partition("=")[0] == "model.path"]


def _config_dir() -> list[str]:
    """Return the flag that names the user's configuration folder, if there is one."""
    own = own_folder()
    return [] if own is None else ["--config-dir", str(own)]


def _ordered(group: Group) -> list[Cell]:
    places = [(variant, task) for task in group.tasks for variant in group.variants]
    return [group.cells[place] for place in places if place in group.cells]


def _needed(cell: Cell, seeds: int) -> Iterator[tuple[list[float], list[int]]]:
    """Yield learning rates and seeds to run: for the runner-up, beyond an end, or more seeds for the chosen one."""
    have = list(cell.by_seed)
    if cell.runner_up is not None and cell.runner_up not in cell.lrs_failed:
        theirs = {run.settings.seed for run in cell.by_lr[cell.runner_up]}
        lacks = sorted(set(have) - theirs)
        yield ([cell.runner_up], lacks) if lacks else ([cell.lr], sorted(theirs - set(have)))
        return
    beyond = [half_decades(cell.lr, step) for step, end in zip((-1, 1), cell.ends, strict=True) if cell.lr == end]
    if beyond:
        yield beyond, (list(cell.shared) or have)[:1]
    elif missing := sorted(set(range(seeds)) - set(have)):
        yield [cell.lr], missing


def _wanted(records: Sequence[RunRecord], seeds: int) -> Iterator[tuple[Cell, list[float], list[int]]]:
    """Yield each cell that needs runs, with their learning rates and seeds."""
    for group in select(records):
        if not group.setting.is_timed:
            for cell in _ordered(group):
                for lrs, some in _needed(cell, seeds):
                    yield cell, lrs, some


def _printable(key: str, value: Any) -> Any:
    """Return a value of a record. Raises `UserError` if a text in it could do something to a terminal."""
    if isinstance(value, list):
        return [_printable(key, one) for one in value]
    if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST):
        raise UserError(f"the text of {key} has control characters, or is too long")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"the value of {key} is neither a number, a text nor a list")
    return value


def _at(config: Any, key: str) -> Any:
    """Return the value of a dotted key, or None."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _has(config: Any, key: str) -> bool:
    """Return whether a configuration has a dotted key, whatever its value."""
    folder, _, name = key.rpartition(".")
    inside = _at(config, folder) if folder else config
    return isinstance(inside, dict) and name in inside


def _shown(run: RunRecord) -> str:
    """Name a record of unknown origin on a terminal."""
    return ascii(f"{run.settings.task.name} {run.settings.model.name} {run.settings.method.name}"[:100])


def _several(values: Iterable[float]) -> str:
    return ",".join(map(repr, values))  # all digits: a rounded learning rate would be another one
