"""The settings of one run, each declared once: type, default, help, range, and whether it affects identity.

Imports neither torch nor transformers, so that a wrong setting is reported at once.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from rosa_bench.methods.base import Method
from rosa_bench.models.spec import Model
from rosa_bench.optim.base import Optimizer
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Checked, setting
from rosa_bench.system.text.printable import printable
from rosa_bench.tasks.base import Task
from rosa_bench.trackers.base import Logger

FARTHEST_SHIFT = 20  # half-decades: ten powers of ten


@dataclass(frozen=True, kw_only=True)
class Protocol(Checked):
    """The rules under which methods are compared. Methods and tasks take their defaults from here."""

    section: ClassVar[str] = "protocol"

    name: str = setting("name of the protocol", is_name=True)
    title: str = setting("title in tables", identity=False)
    train_head: bool = setting("train the task's head under every method")
    train_biases: bool = setting("train the biases of adapted layers")
    lm_head: str | None = setting(
        "name of a language model's output layer, if methods adapt it too; null: they do not",
        identity=False,  # counts through the method
    )
    loss_on_prompt: bool = setting(
        "train a language model on the prompt as well as on its continuation",
        identity=False,  # counts through the task
    )
    optimizer_reset: str = setting(
        "optimizer state that a resample clears: of the replaced factors, or all of it", choices=("factors", "all")
    )
    held_out_rows: float = setting(
        "fraction of the train rows to select on; 0 selects on dev itself", at_least=0, below=1
    )
    held_out_max: int = setting("largest number of held-out rows", at_least=1, at_most=10**9)


@dataclass(frozen=True, kw_only=True)
class Plain(Checked):
    """The settings that are single values, in the order in which ``--help`` shows them.

    A setting without a default gets its value from the task's recipe or, like ``lr``, from the method.
    """

    rank: int = setting(
        "rank of LoRA's and ROSA's factors",
        default=8, at_least=1, at_most=10**6, free=True,
        identity=False,  # counts through the method, if that has a rank
    )  # fmt: skip
    lr: float = setting(
        "peak learning rate; default: the method's under the protocol", above=0, at_most=1e38, free=True
    )
    seed: int = setting("seed of every random choice", default=0, at_least=0, below=2**32, free=True)
    epochs: int = setting("passes over the train rows; default: the recipe's", at_least=1, at_most=10**6)
    batch_size: int = setting("examples per optimizer step; default: the recipe's", at_least=1, at_most=2**20)
    accumulate: int = setting(
        "split each batch into this many parts; same gradient", default=1, at_least=1, at_most=2**20, free=True
    )
    max_length: int | None = setting("longest input in tokens; default: the recipe's", at_least=1, at_most=10**6)
    pad_to_max: bool = setting(
        "pad every batch to max_length, as for Table 1's times, instead of to its longest example",
        default=False, before=False,
    )  # fmt: skip
    group_by_length: bool = setting(
        "batch texts of similar length: less padding, another order of the examples", default=False, before=False
    )
    gradient_checkpointing: bool = setting(
        "keep only the inputs of transformer blocks, and compute the rest again in the backward pass: less memory, "
        "more time, the same gradient",
        default=False, before=False, free=True,
    )  # fmt: skip
    offload: str | None = setting(
        "layers: keep weights in the CPU's memory, and load them block by block; needs a GPU and "
        "gradient_checkpointing=true",
        default=None, choices=("layers",), before=None, free=True,
    )  # fmt: skip
    compile: str = setting(
        "compile the model with TorchInductor; takes half a minute or more, so for long runs only",
        default="none", choices=("none", "default", "max"), free=True, before="none",
    )  # fmt: skip
    cuda_graphs: str = setting(
        "capture and replay steps on a GPU; auto: unless a step synchronises with the host",
        default="auto", choices=("auto", "always", "never"), identity=False, free=True,
    )  # fmt: skip
    parallel: str = setting(
        "how the processes that torchrun or accelerate launch start train one run: data: each has the whole model and "
        "a share of every batch; sharded: each also holds only a part of the weights (FSDP2)",
        default="none", choices=("none", "data", "sharded"), before="none", free=True,
    )  # fmt: skip
    packed: int | str = setting(
        "train up to this many runs of a sweep that differ in lr alone in one pass; auto: 8 on a GPU, else 1",
        default=1, at_least=1, at_most=1024, identity=False, free=True, published=False,
    )  # fmt: skip
    precision: str = setting(
        "type of matrix products; auto: bfloat16 on a GPU that has it, else float32",
        default="auto", choices=("auto", "float32", "bfloat16"), free=True,
        identity=False,  # counts as what auto means on the device
    )  # fmt: skip
    base_dtype: str = setting(
        "type in which linear layers' frozen weights are stored; what trains stays float32, and draws lose nothing; "
        "int8 and nf4 need bitsandbytes",
        default="float32", choices=("float32", "bfloat16", "int8", "nf4"), before="float32",
    )  # fmt: skip
    device: str = setting(
        "auto, cpu, cuda or cuda:N",
        default="auto", free=True,
        identity=False,  # counts as the type of device that auto means
    )  # fmt: skip
    data: str | None = setting(
        "your own data, for task=classify, regress and text: a file, a folder with train and validation files, or a "
        "hub id",
        default=None, identity=False, free=True, published=False,
    )  # fmt: skip
    data_dir: str | None = setting(
        "folder with your own copy of the data; null: the hub",
        default=None, identity=False, free=True, published=False, is_folder=True,
    )  # fmt: skip
    limit_train: int | None = setting(
        "use this many random train rows, the same for every seed; all, with a warning, if there are fewer",
        default=None, at_least=1, at_most=10**9,
    )  # fmt: skip
    limit_eval: int | None = setting("evaluate on this many random rows", default=None, at_least=1, at_most=10**9)
    output_dir: str = setting(
        "folder for saved models and checkpoints",
        default="outputs", identity=False, free=True, published=False, is_folder=True,
    )  # fmt: skip
    results_dir: str = setting(
        "folder for records, tables and figures",
        default="results", identity=False, free=True, published=False, is_folder=True,
    )  # fmt: skip
    resume: str = setting(
        "auto: skip completed runs and continue interrupted ones; never: start again",
        default="auto", choices=("auto", "never"), identity=False, free=True, published=False,
    )  # fmt: skip
    retry_failed: bool = setting("run failed runs again", default=False, identity=False, free=True, published=False)
    checkpoint_s: float = setting(
        "minimum seconds between checkpoints",
        default=300,
        at_least=0,
        at_most=10**9,
        identity=False,
        free=True,
        published=False,
    )
    stop_collapsed: bool = setting(
        "end a run whose model after two epochs gives all rows one answer and no longer learns",
        default=False, before=False,
    )  # fmt: skip
    save_model: bool = setting(
        "save the merged model of the selected epoch in output_dir", default=False, identity=False, free=True
    )
    save_adapter: bool = setting(
        "save the selected epoch's update as a LoRA adapter in output_dir, for rosa-bench export",
        default=False, identity=False, free=True,
    )  # fmt: skip
    record_spectrum: bool = setting(
        "record the singular values of every adapted weight's update, for Figure 5",
        default=False, identity=False, free=True,
    )  # fmt: skip
    forgetting_on: str | None = setting(
        "name of a task for decoders: record the loss on its validation text before and after training",
        default=None, identity=False, free=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > self.batch_size:
            raise UserError(f"accumulate={self.accumulate} splits a batch of {self.batch_size} into too many parts")
        if self.offload and not self.gradient_checkpointing:
            raise UserError(
                f"offload={self.offload} needs gradient_checkpointing=true; without it the backward pass holds every "
                "weight on the GPU"
            )
        if self.offload and self.compile != "none":
            raise UserError(f"offload={self.offload} does not work with compile={self.compile}; use compile=none")
        if self.parallel == "sharded":
            self._check_sharded()
        if isinstance(self.packed, str) and self.packed != "auto":
            raise UserError(f"packed={printable(self.packed)} is not known; use auto, or a number of runs")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UserError(f"device={printable(self.device)} is not known; choose one of: auto, cpu, cuda, cuda:N")

    def _check_sharded(self) -> None:
        odd = {
            f"offload={self.offload} moves weights that are not sharded; use offload=null": self.offload,
            f"compile={self.compile} does not see weights being gathered; use compile=none": self.compile != "none",
            "cuda_graphs=always cannot capture how weights are gathered; use cuda_graphs=auto":
                self.cuda_graphs == "always",
        }  # fmt: skip
        if found := next((reason for reason, holds in odd.items() if holds), None):
            raise UserError(f"parallel=sharded does not go with this: {found}, or parallel=data")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Plain):
    """All settings of one run."""

    task: Task = setting("what to learn")
    model: Model = setting("what to fine-tune")
    method: Method = setting("how to fine-tune it")
    protocol: Protocol = setting("the rules of the comparison")
    optimizer: Optimizer = setting("the optimizer and its schedule")
    logger: Logger = setting("where to follow runs", identity=False, free=True, published=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.task.check(self.model, self.optimizer, epochs=self.epochs if self.method.trains else None)
        if self.data is not None and not self.task.is_own:
            raise UserError(
                f"data={self.data} is not for task={self.task.name}, which has rows of its own; use task=classify, "
                "task=regress or task=text, or data_dir=FOLDER for your copy of the task's rows"
            )
        for key, advice in self.task.refused.items():
            if (value := getattr(self, key)) not in (None, False):
                remedy = f"; use {key}=false" if value is True else ""
                raise UserError(f"{key}={str(value).lower()} is not for task={self.task.name}: {advice}{remedy}")
        if self.offload and not self.method.trains:
            raise UserError(f"offload={self.offload} is for training; method={self.method.name} needs offload=null")
        if self.offload and self.method.offloadable and self.parallel != "none":
            raise UserError(
                f"offload={self.offload} keeps the gradients of method={self.method.name} in the CPU's memory, where "
                "processes do not exchange them; use offload=null"
            )
        if self.save_adapter and not self.method.mergeable:
            raise UserError(
                f"method={self.method.name} cannot be merged into weights, so it has no LoRA adapter; use "
                "save_model=true, which saves its own"
            )
        if self.save_adapter and not self.method.adapts_layers:
            raise UserError(
                f"method={self.method.name} adapts no layers, so it has no LoRA adapter; use save_model=true instead "
                "of save_adapter=true"
            )
        if self.parallel == "sharded" and (reason := self.method.unshardable):
            raise UserError(f"parallel=sharded shards the weights: {reason}; use parallel=data")
        if self.base_dtype != "float32" and not self.method.narrow_base:
            raise UserError(
                f"method={self.method.name} needs the model's weights in float32; use base_dtype=float32, or a method "
                "that leaves them frozen, such as lora or rosa"
            )
        if self.quantises and getattr(self.method, "split_qkv", False):
            raise UserError(
                f"base_dtype={self.base_dtype} does not split fused projections; use method.split_qkv=false, or "
                "base_dtype=bfloat16"
            )
        if self.base_dtype != "float32" and self.parallel != "none":
            raise UserError(
                f"base_dtype={self.base_dtype} does not work with parallel={self.parallel}; use base_dtype=float32, or "
                "parallel=none"
            )
        if self.packed not in ("auto", 1) and (reason := self.unpackable):
            raise UserError(f"packed={self.packed} trains several runs in one pass: {reason}; use packed=auto or 1")

    @property
    def quantises(self) -> bool:
        """Whether frozen weights are stored in integers, by bitsandbytes."""
        return self.base_dtype in {"int8", "nf4"}

    @property
    def unpackable(self) -> str | None:
        """Why the run cannot train in one pass with others; None if it can."""
        reasons = {
            f"method={self.method.name} cannot": not self.method.packable,
            f"model={self.model.name} cannot": not self.model.packable,
            f"compile={self.compile} does not work with it": self.compile != "none",
            "gradient_checkpointing=true does not work with it": self.gradient_checkpointing,
            f"parallel={self.parallel} does not work with it": self.parallel != "none",
            f"base_dtype={self.base_dtype} does not work with it": self.base_dtype != "float32",
        }
        return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True, kw_only=True)
class Shorthand(Checked):
    """Settings that only provide values for other settings; they are not part of a run."""

    recipe: str = setting(
        "recipe of the task: where methods and optimizers look up their defaults", default="otherwise"
    )
    default: dict[str, Any] = setting(
        "default for every method of a sweep that has the setting: +default.method.resample_every=1",
        default_factory=dict,
    )
    lr_half_decades: int = setting(
        "half-decades to add to lr: -1,0,1 sweeps 6e-4, 2e-3, 6e-3 around 2e-3",
        default=0, at_least=-FARTHEST_SHIFT, at_most=FARTHEST_SHIFT,
    )  # fmt: skip


def half_decades(lr: float, count: int) -> float:
    """Return the learning rate ``count`` half-decades above ``lr``, to one digit: 2e-3, 6e-3, 2e-2, 6e-2."""
    return float(f"{lr * 10 ** (count / 2):.0e}") if count else lr
