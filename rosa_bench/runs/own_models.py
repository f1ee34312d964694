"""Write the yaml of a model of the user's own into a folder of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rosa_bench.config.files.folder import conf_folder, files_in, given_folder
from rosa_bench.system.errors import UserError
from rosa_bench.system.files.atomic import write_atomic
from rosa_bench.system.setting import Checked, setting

DEFAULT_FOLDER = "my_conf"
HEAD = "# Found from the architecture by rosa-bench models add; correct it where it is wrong.\n"


@dataclass(kw_only=True)
class Own(Checked):
    """Options of ``rosa-bench models add``."""

    name: str | None = setting("the model's new name, for model=NAME", default=None, is_name=True)
    title: str | None = setting("its name in tables; default: its architecture and size", default=None)
    licence: str = setting("licence of the weights", default="not known; see the page of the model")
    revision: str | None = setting("commit or tag on the hub", default=None)


def add_model(place: str, options: Own) -> tuple[Path, Mapping[str, Any]]:
    """Write the yaml of the model in a folder or on the hub; return its path and content.

    It goes into the folder of ``--config-dir``. Raises `UserError` if the name is taken, or as `declaration` does.
    """
    from rosa_bench.models.auto.found import declaration

    if options.name is None:
        raise UserError("add needs name=NAME, the new name of the model")
    given = given_folder() or Path(DEFAULT_FOLDER)
    folder = given.absolute()
    if folder.resolve().is_relative_to(conf_folder().resolve()):
        raise UserError(f"{given} is the package's own folder; choose another with --config-dir FOLDER")
    target = folder / "model" / f"{options.name}.yaml"
    if target.exists() or options.name in files_in("model", own=folder):
        raise UserError(f"name={options.name} is a model already; choose another name")
    local = Path(place).expanduser()
    path = str(local.absolute()) if local.exists() or place.startswith((".", "/", "~")) else None
    if path is not None and "${" in path:
        raise UserError(f"{path} contains ${{, which a yaml reads as a reference; rename the folder")
    found = declaration(path, None if path else place, options.revision)
    values = {**found, "name": options.name, "title": options.title or found["title"], "licence": options.licence}
    values |= {"path": path} if path else {"hub": place, "revision": options.revision}
    if values["lm_head"] is None:
        del values["lm_head"]
    write_atomic(target, HEAD + OmegaConf.to_yaml(OmegaConf.create(dict(values))))
    return target, values
