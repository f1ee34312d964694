"""Cost of a training step: our methods against full fine-tuning, HF PEFT and the two-branch form.

    python -m scripts.benchmarks.step [results/benchmarks] [none|default|max] [pattern of variants]

Prints a table and writes it as JSON. A step is forward, backward and AdamW on one batch. The second argument is the
highest level of compilation (by default ``default`` on a GPU, else ``none``). With a pattern, only variants whose whole
name matches it are measured. Times are medians of interleaved repetitions; compare their ratios within one run.
*Joined* variants compute queries, keys and values in one product, and cast frozen weights once. RoBERTa-base with
random weights in bfloat16 on a GPU; MiniLM-L6's shape in float32 on a CPU.

``of_limit`` is a lower bound on the step's time, as a fraction of the measured time. The bound is the floating-point
operations needed, at the measured rate of one large bfloat16 product. Gradients of frozen weights are not counted.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, RobertaConfig

from rosa_bench.api import compose
from rosa_bench.data.batches import Batch
from rosa_bench.layers.fused.joined import joined
from rosa_bench.layers.fused.stacked import LARGEST, materialised
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.methods.ft import FullFineTuning
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.models.base_dtype import store_in
from rosa_bench.system.resources.device import autocast, resolve_precision
from rosa_bench.training.compile import WARM_UPS, compiled
from rosa_bench.training.cuda_graphs import replaying
from rosa_bench.training.loop import optimisation
from rosa_bench.training.state import Recipe, Training
from scripts.arguments import RESULTS, existing_folder, one_of, regular_expression, start
from scripts.reporting import ROBERTA_BASE, SMALL, Figures, interleaved, with_extra_bytes, write_report

RANK = 8
REPEATS = 15
LEVELS = ("none", "default", "max")  # of compilation
Step = Callable[[Batch], Tensor]


class AsItIs(FullFineTuning):
    """Trains the parameters that already require a gradient, for models made by other libraries."""

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        return (parameter for parameter in model.parameters() if parameter.requires_grad)


def main(folder: Path = RESULTS, most_compiled: str | None = None, pattern: str | None = None) -> None:
    """Run every benchmark, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    levels = LEVELS[: LEVELS.index(most_compiled or ("default" if on_gpu else "none")) + 1]
    figures: dict[str, Figures] = {} if on_gpu else {"layer": layer()}
    for rows, length in ((32, 512), (32, 16)) if on_gpu else ((32, 16),):
        figures[f"step {rows} x {length}"] = steps(rows, length, levels, device, pattern=pattern)
    write_report("step", figures, folder=folder, what=__doc__, device=device)


def layer() -> Figures:
    """Time forward and backward of one layer: one full-size matrix product against the usual two branches."""
    size = SMALL["hidden_size"]
    plain = nn.Linear(size, size).requires_grad_(False)
    own = LowRankLinear(plain, RANK)
    nn.init.normal_(own.a)
    nn.init.normal_(own.b)
    x = torch.randn(512, size, requires_grad=True)

    def two_branches() -> None:
        y = functional.linear(x, own.residual, own.bias) + functional.linear(functional.linear(x, own.b), own.a)
        y.sum().backward()

    times = interleaved({"ours_s": lambda: own(x).sum().backward(), "two_branches_s": two_branches}, repeats=300)
    return {**times, "ratio": times["ours_s"] / times["two_branches_s"]}


def steps(
    rows: int, length: int, levels: tuple[str, ...], device: torch.device, *, pattern: str | None = None
) -> Figures:
    """Return time and peak memory of a step by variant, and ratios to eager full fine-tuning and PEFT's LoRA."""
    on_gpu = device.type == "cuda"
    plain = {
        "ft": lambda: ours("ft", device),
        "peft_lora": lambda: peft_lora(device),
        "two_branches": lambda: two_branches(device),
        "lora": lambda: ours("lora", device),
        "rosa": lambda: ours("rosa", device),
    }
    made = {f"{name}, eager": (make, "none", "never") for name, make in plain.items()}
    if on_gpu:
        made |= {f"{name}, graph": (plain[name], "none", "always") for name in ("ft", "peft_lora", "lora", "rosa")}
    for choice in levels[1:]:
        made |= {
            f"{name}, {choice}" + (" + graph" if on_gpu else ""): (plain[name], choice, "always")
            for name in (("ft", "peft_lora", "rosa") if length > 100 else ("rosa",))  # compiling takes half a minute
        }
    if on_gpu:
        made["rosa, joined, graph"] = (plain["rosa"], "none", "always")
        made["rosa, joined, bfloat16 base, graph"] = (partial(ours, "rosa", device, base="bfloat16"), "none", "always")
        for choice in levels[1:]:
            made[f"rosa, joined, {choice} + graph"] = (plain["rosa"], choice, "always")
    made = {name: parts for name, parts in made.items() if pattern is None or re.fullmatch(pattern, name)}
    batch = random_batch(rows, length, device)
    memory: Figures = {}
    with ExitStack() as stack:
        actions = {}
        for name, (make, choice, graphs) in made.items():
            prepare = partial(
                ready, stack, make, batch, choice=choice, graphs=graphs, device=device, join="joined" in name
            )
            actions[name], memory[name] = with_extra_bytes(prepare, device)
            print(f"{rows} x {length}, {name}: ready, {memory[name] / 1e6:.0f} MB", flush=True)
        times = interleaved(actions, repeats=REPEATS)
    figures = {f"{name}, ms": 1e3 * time_s for name, time_s in times.items()}
    for title, reference in (("FT eager", "ft, eager"), ("PEFT LoRA eager", "peft_lora, eager")):
        if reference in times:
            figures |= {f"{name}, to {title}": time_s / times[reference] for name, time_s in times.items()}
    if on_gpu:
        limit_s = needed_operations("rosa", rows, length) / bfloat16_rate(device)
        figures["limit of rosa, ms"] = 1e3 * limit_s
        figures |= {f"{name}, of_limit": limit_s / times[name] for name in times if name.startswith("rosa")}
        figures |= {f"{name}, peak_MB": peak / 1e6 for name, peak in memory.items()}
        for name in memory:
            if "rosa" in name and "ft, eager" in memory:
                figures[f"{name}, memory to FT eager"] = memory[name] / memory["ft, eager"]
        if {"rosa, graph", "lora, graph"} <= memory.keys():
            figures["rosa, memory to lora, graph"] = memory["rosa, graph"] / memory["lora, graph"]
    return figures


def ready(
    stack: ExitStack,
    make: Callable[[], nn.Module],
    batch: Batch,
    *,
    choice: str,
    graphs: str,
    device: torch.device,
    join: bool = False,
) -> Callable[[], object]:
    """Return a training step of a new model, warmed up, so that compilation and capture are done."""
    model = make()
    config = compose(["task=cola", "method=ft"])
    recipe = Recipe(lr=1e-4, epochs=1, warmup_steps=0, optimizer=config.optimizer, accumulate=1, reset="all")
    method = AsItIs(**vars(config.method))
    training = Training(model, method, recipe, steps_per_epoch=1, device=device)
    step: Step = optimisation(training, autocast(resolve_precision("auto", device), device))
    joins = stack.enter_context(joined(model, batch if join else None))
    stack.enter_context(materialised(model, largest=LARGEST if device.type == "cuda" else 0, joins=joins))
    stack.enter_context(compiled(model, choice))
    with replaying(device, graphs, warm_ups=WARM_UPS) as replay:
        step = replay(step)
        for _ in range(WARM_UPS + 1):
            step(batch)
    return lambda: step(batch)


def random_batch(rows: int, length: int, device: torch.device) -> Batch:
    """Return random sentences of one length, without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (rows, length), generator=generator)
    return {"input_ids": ids.to(device), "labels": torch.randint(2, (rows,), generator=generator).to(device)}


def encoder(device: torch.device) -> PreTrainedModel:
    """Return RoBERTa-base, or on a CPU MiniLM-L6's shape, with random weights."""
    torch.manual_seed(0)
    config = RobertaConfig(**ROBERTA_BASE) if device.type == "cuda" else BertConfig(**SMALL)
    config.problem_type = "single_label_classification"  # set now, or the model would be compiled again
    model = AutoModelForSequenceClassification.from_config(config).to(device).train()
    use_fast_attention(model)
    return model


def ours(method: str, device: torch.device, *, base: str = "float32") -> nn.Module:
    """Return the model with a method of ours attached, under the protocol ``fair``, and frozen weights in ``base``."""
    model = encoder(device)
    chosen = compose([f"method={method}", f"rank={RANK}", "model=roberta_base", "protocol=fair"]).method
    store_in(base, model, head=chosen.head)
    chosen.attach(model)
    return model


def peft_lora(device: torch.device) -> nn.Module:
    """Return the model with HF PEFT's LoRA on the same layers and a trained head."""
    targets = r".*(attention\.self\.(query|key|value)|attention\.output\.dense)"
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, modules_to_save=["classifier"])
    return get_peft_model(encoder(device), config)


class TwoBranches(nn.Module):
    """LoRA as in its paper: ``x residual^T + (x b^T) a^T + bias``."""

    residual: Tensor

    def __init__(self, layer: LowRankLinear):
        super().__init__()
        self.register_buffer("residual", layer.residual)
        self.a, self.b, self.bias = layer.a, layer.b, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.residual, self.bias)
        return y + functional.linear(functional.linear(x, self.b), self.a)


def two_branches(device: torch.device) -> nn.Module:
    """Return our LoRA with its layers in the two-branch form."""
    model = ours("lora", device)
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, TwoBranches(module))
    return model


def needed_operations(method: str, rows: int, length: int) -> float:
    """Return the floating-point operations that a step of RoBERTa-base needs, two for each multiply-add.

    Forward: every weight of the layers once per token, plus attention's scores and sums. Backward: the same number for
    the gradients of inputs, twice as many for attention, and the gradients of the trained weights or factors.
    """
    layers, width, inner, tokens = 12, 768, 3072, rows * length
    weights = layers * (4 * width**2 + 2 * width * inner)
    attention = layers * 2 * 2 * tokens * length * width
    trained = 2 * weights * tokens if method == "ft" else layers * 4 * 2 * 2 * tokens * RANK * 2 * width
    return 2 * 2 * weights * tokens + 3 * attention + trained


def bfloat16_rate(device: torch.device) -> float:
    """Return the floating-point operations per second of one large matrix product."""
    size = 8192
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * size**3 / interleaved({"product": lambda: left @ right}, repeats=20)["product"]


if __name__ == "__main__":
    start(main, __doc__, existing_folder, one_of(*LEVELS), regular_expression)
