"""Turn a composed configuration into a checked one. Past this point, no code reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is reported at once.
"""

from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.config.build import build, typed
from rosa_bench.config.groups import GROUPS
from rosa_bench.config.schema import Plain, RunConfig, Shorthand, half_decades
from rosa_bench.system.errors import UserError, user_error_in


def parse(raw: DictConfig) -> RunConfig:
    """Return the checked settings of a composed configuration.

    Raises `UserError`, which names the key, if a value is missing, has the wrong type or is out of range.
    """
    try:
        values: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    except OmegaConfBaseException as error:
        if (mistake := user_error_in(error)) is not None:  # raised by one of our resolvers
            raise mistake from None
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from error
    plain = vars(typed(Plain, {field.name: values[field.name] for field in fields(Plain)}))
    shorthand = typed(Shorthand, {field.name: values[field.name] for field in fields(Shorthand)})
    groups = {name: build(base, values[name], at=name, default=default) for name, (base, default) in GROUPS.items()}
    return RunConfig(**{**plain, "lr": half_decades(plain["lr"], shorthand.lr_half_decades)}, **groups)
