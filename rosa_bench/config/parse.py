"""The settings of one run, typed and checked. Past this point no one reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is told at once.
"""

from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.config.build import build, typed
from rosa_bench.config.schema import Protocol, RunConfig, _Plain, _Shift, half_decades
from rosa_bench.methods.base import Method
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.optim.base import Optimizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.base import Task
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.trackers.base import Logger


def parse(raw: DictConfig) -> RunConfig:
    """Turn a composed configuration into a checked one.

    Raises `UserError`, which names the key, for a value that is missing, of another type or out of range.
    """
    try:
        values: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from error
    plain = {field.name: values[field.name] for field in fields(_Plain)}
    settings = vars(typed(_Plain, plain))
    shift = typed(_Shift, {"lr_half_decades": values["lr_half_decades"]})
    return RunConfig(
        **{**settings, "lr": half_decades(settings["lr"], shift.lr_half_decades)},
        task=build(Task, values["task"], at="task", default=TextTask),  # pyright: ignore[reportArgumentType]
        model=build(Model, values["model"], at="model", default=Encoder),
        method=build(Method, values["method"], at="method"),
        protocol=typed(Protocol, values["protocol"], at="protocol"),
        optimizer=typed(Optimizer, values["optimizer"], at="optimizer"),
        logger=build(Logger, values["logger"], at="logger", default=Logger),
    )
