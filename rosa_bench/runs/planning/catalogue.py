"""Every method with its paper, what it trains, and its size on a chosen model, without loading weights."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rosa_bench.config.composing.compose import Composer
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.folder import files_in
from rosa_bench.config.files.reading import read_settings
from rosa_bench.config.groups import names_in
from rosa_bench.config.overrides.mistakes import composition_errors
from rosa_bench.config.schema import RunConfig
from rosa_bench.methods.base import Method
from rosa_bench.methods.size import Size, UnsizedError, size_of
from rosa_bench.models.weights.source import locate
from rosa_bench.runs.planning.fits import Remembered
from rosa_bench.runs.planning.fits import entry as key_of
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.setting import settings_of

if TYPE_CHECKING:
    from torch import nn

# A task for each kind of model, if the user names none: sizes depend on it only through the head.
TASKS = {"Encoder": "cola", "Decoder": "e2e_nlg", "Perceptron": "synthetic"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method. ``size`` is None if unknown, or if the method refuses the model: ``refusal`` then says why."""

    name: str
    trains: str = ""
    paper: str = ""
    arxiv: str = ""
    url: str = ""
    year: int | None = None
    size: Size | None = None
    refusal: str = ""
    mergeable: bool | None = None
    keeps_function: bool | None = None

    @property
    def link(self) -> str:
        """The address of the paper, or nothing."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url


@dataclass(frozen=True)
class Details:
    """One method's settings, as (name=value, help), and the comment at the head of its yaml."""

    entry: Entry
    title: str
    comment: str
    lr: dict[str, float]
    settings: list[tuple[str, str]] = field(default_factory=list)


def catalogue(composer: Composer, overrides: Sequence[str]) -> Iterator[Entry]:
    """Yield every method with its size on the model that the overrides choose.

    Raises `UserError` if the overrides are wrong whatever the method.
    """
    overrides = [*default_task(composer, overrides), *overrides]
    composed(composer, overrides, "ft")
    sizes = Sizes()
    for name in names_in("method"):
        yield entry(composer, overrides, name, sizes)
    sizes.save()


class Sizes(Remembered):
    """Sizes of methods on models, remembered. So is why a method has none: that depends on nothing else."""

    def __init__(self) -> None:
        super().__init__("sizes")
        self._models: dict[str, nn.Module] = {}

    def of(self, config: RunConfig) -> Size:
        """Return what `size` returns. Raises what it raises."""
        key = key_of(config, locate(config.model), config.optimizer)
        if key not in self.known:
            try:
                self.remember(key, {"size": size(config, self._models)})
            except UserError as error:
                kind = "unsized" if isinstance(error, UnsizedError) else "refusal"
                self.remember(key, {kind: str(error)})
        match self.known[key]:
            case {"size": [total, trainable, elements]}:
                return Size(total, trainable, elements)
            case {"unsized": reason}:
                raise UnsizedError(reason)
            case {"refusal": reason}:
                raise UserError(reason)
        raise AssertionError(self.known[key])


def entry(composer: Composer, overrides: Sequence[str], name: str, sizes: Sizes) -> Entry:
    """Return one method with its size."""
    known = about(name)
    try:
        config = composed(composer, overrides, name)
        known |= {"mergeable": config.method.mergeable, "keeps_function": config.method.keeps_function}
        return Entry(**known, size=sizes.of(config))
    except UnsizedError:
        return Entry(**known)
    except UserError as error:
        return Entry(**known, refusal=str(error))


def details(composer: Composer, overrides: Sequence[str], name: str) -> Details:
    """Return everything about one method. Raises `UserError` for an unknown name or wrong settings."""
    one_of("method", name, names_in("method"))
    overrides = [*default_task(composer, overrides), *overrides]
    method = composed(composer, overrides, name).method
    sizes = Sizes()
    known = entry(composer, overrides, name, sizes)
    sizes.save()
    return Details(known, method.title, comment(name), method.default_lr, described(method))


def size(config: RunConfig, models: "dict[str, nn.Module]") -> Size:
    """Return the size of a run's method on its model. Raises `UserError` if the method refuses the model.

    ``models`` keeps each model without weights and without a method, for the next method: a copy takes half the time.
    """
    source = locate(config.model)
    key = repr((config.task, config.model, source))
    if key not in models:
        if (model := config.task.shapes(config.model, source)) is None:
            raise UserError(f"the shapes of model={config.model.name} are not on this machine; declare model.shape")
        models[key] = model
    return size_of(config.method, copy.deepcopy(models[key]), config.optimizer)


def composed(composer: Composer, overrides: Sequence[str], name: str) -> RunConfig:
    """Return the settings of a run with this method."""
    with composition_errors():
        return parse(composer.settings((*overrides, f"method={name}")))


def default_task(composer: Composer, overrides: Sequence[str]) -> list[str]:
    """Return a task that fits the chosen model, unless the overrides name one."""
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    if "task" in given or given.get("model", "roberta_base") not in names_in("model"):
        return []
    with composition_errors():  # of the model alone: the other settings may belong to a method
        chosen = (f"model={given['model']}",) if "model" in given else ()
        kind = str(composer.compose(chosen).model.get("_target_", "Encoder")).rpartition(".")[2]
    return [f"task={TASKS[kind]}"]


def about(name: str) -> dict[str, Any]:
    """Return the name of a method and what its yaml says about it."""
    known = read_settings(files_in("method")[name]).get("about", {})
    return {"name": name, **{key: known[key] for key in ("trains", "paper", "arxiv", "url", "year") if key in known}}


def comment(name: str) -> str:
    """Return the comment at the head of a method's yaml, in one line."""
    text = files_in("method")[name].read_text(encoding="utf-8")
    lines = text.splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:count])


def described(method: Method) -> list[tuple[str, str]]:
    """Return the method's own settings as they are written on the command line, each with its help and choices."""
    rows = []
    for declared, known in settings_of(method):
        if known.identity and declared.name not in ("name", "seed", "head"):
            key = known.key or f"method.{declared.name}"
            choices = f" ({', '.join(known.choices)})" if known.choices else ""
            rows.append((f"{key}={_written(getattr(method, declared.name))}", known.help + choices))
    return rows


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
