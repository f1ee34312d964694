"""The settings of one run, typed and checked. Past this point no one reads a raw configuration.

Imports neither torch nor transformers, so that a wrong setting is told at once.
"""

import re
from dataclasses import dataclass

from rosa_bench.methods.base import Method
from rosa_bench.models.spec import Model
from rosa_bench.optim.base import Optimizer
from rosa_bench.system.errors import UserError, at_least, one_of
from rosa_bench.tasks.base import Task
from rosa_bench.trackers.base import Logger

FARTHEST_SHIFT = 20  # half-decades: ten powers of ten


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
        self.task.check(self.model, self.optimizer)
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
