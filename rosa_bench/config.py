"""The settings of one run, typed and checked. Past this point no one reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is told at once.
"""

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rosa_bench.data.task import Task, TextTask
from rosa_bench.errors import UserError, at_least, one_of
from rosa_bench.files import shipped
from rosa_bench.methods.base import Method
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.schedule import SCHEDULES
from rosa_bench.tracking import Logger
from rosa_bench.typed import build, typed

FARTHEST_SHIFT = 20  # half-decades: ten powers of ten


def conf_folder() -> Path:
    """Where the configuration files are: inside an installed package, else at the top of the source tree."""
    return shipped("conf", "conf")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules under which methods are compared. Methods take their defaults from here (``conf/method``).

    train_head, train_biases  what trains beside a PEFT method's own parameters
    lora_init        LoRA's initialisation
    lm_head          of a language model: the layer that methods adapt beside its attention, none where they do not
    loss_on_prompt   whether a language model is trained to write the prompt as well
    optimizer_reset  whose optimizer state a resample clears: ``factors`` or ``all``
    held_out_rows    fraction of train to select on; 0 selects on dev itself, and by epoch
    held_out_max     at most so many rows
    """

    name: str
    title: str
    train_head: bool
    train_biases: bool
    lora_init: str
    lm_head: str | None
    loss_on_prompt: bool
    optimizer_reset: str
    held_out_rows: float
    held_out_max: int

    def __post_init__(self) -> None:
        one_of("protocol.optimizer_reset", self.optimizer_reset, ("factors", "all"))
        at_least("protocol.held_out_rows", self.held_out_rows, 0)
        at_least("protocol.held_out_max", self.held_out_max, 1)
        if self.held_out_rows >= 1:
            raise UserError(f"protocol.held_out_rows={self.held_out_rows} is a fraction of train; it must be below 1")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW and its schedule: warm-up in steps, or as a fraction of all steps where ``warmup_steps`` is none."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup_fraction: float
    warmup_steps: int | None
    schedule: str
    clip_norm: float | None

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers in 0..1, below 1")
        at_least("optimizer.eps", self.eps, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        at_least("optimizer.warmup_fraction", self.warmup_fraction, 0)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        at_least("optimizer.clip_norm", self.clip_norm, 0, above=True)
        if self.warmup_fraction > 1:
            raise UserError(f"optimizer.warmup_fraction={self.warmup_fraction} is out of range; it must be at most 1")

    def warmup(self, total_steps: int) -> int:
        """How many of ``total_steps`` warm up."""
        return math.ceil(self.warmup_fraction * total_steps) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """The settings that are single values: what omegaconf checks the types of."""

    rank: int
    lr: float
    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    max_length: int | None
    pad_to_max: bool
    group_by_length: bool
    compile: str
    cuda_graphs: str
    precision: str
    device: str
    data_dir: str | None
    limit_train: int | None
    limit_eval: int | None
    output_dir: str
    results_dir: str
    resume: str
    retry_failed: bool
    checkpoint_s: float
    save_model: bool
    record_spectrum: bool

    def __post_init__(self) -> None:
        at_least("rank", self.rank, 1)
        at_least("lr", self.lr, 0, above=True)
        at_least("seed", self.seed, 0)
        at_least("checkpoint_s", self.checkpoint_s, 0)
        if self.seed >= 2**32:
            raise UserError(f"seed={self.seed} is out of range; it must be below 2^32")
        for key in ("epochs", "batch_size", "accumulate", "max_length", "limit_train", "limit_eval"):
            at_least(key, getattr(self, key), 1)
        if self.accumulate > self.batch_size:
            raise UserError(f"accumulate={self.accumulate} splits a batch of {self.batch_size} into too many parts")
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("compile", self.compile, ("none", "default", "max"))
        one_of("cuda_graphs", self.cuda_graphs, ("auto", "always", "never"))
        one_of("resume", self.resume, ("auto", "never"))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device={self.device} is not known; choose one of: auto, cpu, cuda, cuda:N")


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Plain):
    """Everything that one run is made from."""

    task: Task
    model: Model
    method: Method
    protocol: Protocol
    optimizer: Optimizer
    logger: Logger

    def __post_init__(self) -> None:
        super().__post_init__()
        self.task.check(self.model)
        if self.pad_to_max and not self.task.has_text:
            raise UserError(f"pad_to_max=true pads text, and task={self.task.name} has none; use pad_to_max=false")
        if self.group_by_length and not self.task.has_text:
            raise UserError(
                f"group_by_length=true is for texts, and task={self.task.name} has none; use group_by_length=false"
            )


@dataclass(frozen=True, kw_only=True)
class _Shift:
    """Where a run's learning rate lies from ``lr``: so many half-decades above it, or below."""

    lr_half_decades: int

    def __post_init__(self) -> None:
        at_least("lr_half_decades", self.lr_half_decades, -FARTHEST_SHIFT)
        if self.lr_half_decades > FARTHEST_SHIFT:
            raise UserError(f"lr_half_decades={self.lr_half_decades} is out of range; at most {FARTHEST_SHIFT}")


def half_decades(lr: float, count: int) -> float:
    """The learning rate so many half-decades above ``lr``, to one digit: from 2e-3 on 6e-3, 2e-2, 6e-2."""
    return float(f"{lr * 10 ** (count / 2):.0e}") if count else lr


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
