"""One GPU against two, with data parallel and sharded weights: time of a step, peak memory, time of a resample.

    python -m scripts.benchmarks.several_gpus [results/benchmarks] [seconds in all] [phase ...]

Starts itself in one process (phase *one*), then in two (*two*, *recomputed*, *captured*), which share the same global
batch, and prints what they measure as it goes. Phases that are named are made alone. A step is forward, backward,
exchange and AdamW: RoBERTa-base on 32 x 512 tokens, and a Llama of 1.2 billion parameters on 8 x 1024 tokens, both with
random weights, in bfloat16 on GPUs. ROSA adapts RoBERTa's attention, and all linear layers of the Llama. On a CPU tiny
shapes in float32 show that it works. ``ms`` are medians, ``MB`` is the peak memory of the first GPU in training. Steps
are eager unless they are called *captured*. *Recomputed* steps keep only the inputs of blocks. ``loss`` is that of the
third step. It is the same for one GPU and two up to rounding, except RoBERTa's, whose dropout masks differ. What is not
done in time is left out.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from rosa_bench.api import compose
from rosa_bench.data.batches import Batch
from rosa_bench.layers.fused.stacked import LARGEST, materialised
from rosa_bench.methods.base import Method
from rosa_bench.models.attention import use_fast_attention, without_cudnn_attention
from rosa_bench.system import processes
from rosa_bench.system.resources.device import autocast, resolve_device, resolve_precision
from rosa_bench.system.resources.meter import peak_bytes, release_unused, reset_peak
from rosa_bench.training.cuda_graphs import replaying
from rosa_bench.training.distributed.sharded import sharded
from rosa_bench.training.distributed.together import Together
from rosa_bench.training.loop import optimisation
from rosa_bench.training.memory.recompute import recomputed
from rosa_bench.training.state import Recipe, Training
from scripts.arguments import RESULTS, existing_folder, number, one_of, start
from scripts.benchmarks.decoder_step import decoder
from scripts.reporting import ROBERTA_BASE, Figures, wait_for_gpu, write_report

LLAMA = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 2048,
         "tie_word_embeddings": True}  # fmt: skip
TINY_LLAMA = {**LLAMA, "vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
TINY_ROBERTA = {**ROBERTA_BASE, "vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4}  # fmt: skip
SHAPES = {"cuda": {"roberta": (32, 512), "llama": (8, 1024)}, "cpu": {"roberta": (4, 16), "llama": (4, 16)}}
RANK, WARM_UPS, REPEATS = 8, 3, 10
HEADROOM_BYTES = 1 << 31  # for a resample: less than training takes


class Variant(NamedTuple):
    """A kind of training. ``captured`` and ``recomputed`` are as in the settings of a run."""

    model: str
    method: str
    parallel: str
    captured: bool = False
    recomputed: bool = False

    @property
    def title(self) -> str:
        """The variant in words."""
        extra = [name for name in ("captured", "recomputed") if getattr(self, name)]
        return ", ".join([self.method, self.parallel, *extra])


PAIRS = (("roberta", "rosa"), ("roberta", "ft"), ("llama", "rosa"), ("llama", "ft"))
ALONE = [*(Variant(*pair, "none") for pair in PAIRS), Variant("roberta", "rosa", "none", captured=True)]
TWO = [Variant(*pair, how) for pair in PAIRS for how in ("data", "sharded")]
RECOMPUTED = [Variant("llama", "ft", how, recomputed=True) for how in ("none", "data", "sharded")]
CAPTURED = [Variant("roberta", "rosa", "data", captured=True)]
PHASES = {"one": [*ALONE, RECOMPUTED[0]], "two": [*TWO, RECOMPUTED[1]],
          "recomputed": RECOMPUTED[2:], "captured": CAPTURED}  # fmt: skip


def main(folder: Path = RESULTS, limit_s: float = 110, *phases: str) -> None:
    """Start each phase in processes of its own, and write what they measured."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    deadline, figures = time.monotonic() + limit_s, dict[str, Figures]()
    with tempfile.TemporaryDirectory() as place:
        for phase in phases or PHASES:
            lines = Path(place, phase)
            command = [*launcher(1 if phase == "one" else 2), "-m", "scripts.benchmarks.several_gpus"]
            run_until(deadline, [*command, "--phase", phase, str(lines)])
            for line in lines.read_text().splitlines() if lines.exists() else []:
                title, found = json.loads(line)
                figures.setdefault(title, {}).update(found)
    write_report("several_gpus", figures, folder=folder, what=__doc__, device=device)


def run_until(deadline: float, command: list[str], environment: Mapping[str, str] | None = None) -> bool:
    """Run a command, and end it with all processes that it has started if it is not done in time. Return if it was."""
    started = subprocess.Popen(command, env=environment)
    try:
        started.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("stopped, for lack of time", flush=True)
        started.terminate()  # a launcher that is killed leaves its processes; one that is asked to stop ends them
        started.wait()
        return False
    return True


def launcher(count: int) -> list[str]:
    """Return the start of a command for this many processes on this machine."""
    if count == 1:
        return [sys.executable]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *place]


def measure(phase: str, lines: Path) -> None:
    """Measure the variants of a phase in this process, and in those that were started with it."""
    device = resolve_device("auto")
    count = processes.launched()
    with processes.joined(device) if count > 1 else nullcontext(), without_cudnn_attention():
        for variant in PHASES[phase]:
            release_unused()
            title = f"{variant.model} {' x '.join(map(str, SHAPES[device.type][variant.model]))}"
            found = {f"{variant.title}, {key}": value for key, value in figures_of(variant, device).items()}
            if processes.is_first():
                print(title, {key: round(value, 3) for key, value in found.items()}, flush=True)
                with lines.open("a") as file:
                    file.write(json.dumps([title, found]) + "\n")


def figures_of(variant: Variant, device: torch.device) -> Figures:
    """Return time, memory and loss of a variant's step, and the time of a resample if its method makes any."""
    method, model = ready(variant, device)
    with stepping(variant, method, model, device) as (training, step):
        reset_peak(device)
        batch, times = random_batch(variant.model, device), list[float]()
        loss = [float(step(batch)) for _ in range(WARM_UPS)][-1]
        for _ in range(REPEATS):
            times.append(timed(lambda: step(batch)))
        found = {"ms": 1e3 * statistics.median(times), "MB": peak_bytes(device) / 1e6, "loss": loss}
        if variant.method == "rosa":
            draw = partial(method.before_step, model, 1, length=training.length, headroom_bytes=HEADROOM_BYTES)
            draws = [timed(draw) for _ in range(3)]
            found["resample_ms"] = 1e3 * statistics.median(draws)
    return found


def ready(variant: Variant, device: torch.device) -> tuple[Method, nn.Module]:
    """Return a method and the model that it is attached to, on its device."""
    on_gpu, decodes = device.type == "cuda", variant.model == "llama"
    if decodes:
        model = decoder(device, shape=LLAMA if on_gpu else TINY_LLAMA)
    else:
        torch.manual_seed(0)
        with device:
            model = RobertaForSequenceClassification(RobertaConfig(**(ROBERTA_BASE if on_gpu else TINY_ROBERTA)))  # pyrefly: ignore[bad-argument-type]
        use_fast_attention(model)
    # SmolLM2 is a Llama too: the names of its layers are the same.
    names = ("task=new_language", "model=smollm2_135m") if decodes else ("task=cola", "model=roberta_base")
    rank = [f"rank={RANK}"] if variant.method == "rosa" else []
    method = compose([*names, f"method={variant.method}", *rank, "protocol=fair"]).method
    return method, method.attach(model).train()


@contextmanager
def stepping(variant: Variant, method: Method, model: nn.Module, device: torch.device) -> Iterator[tuple]:
    """Yield the training of a variant, and its step."""
    shards = variant.parallel == "sharded"
    together = Together(sharded=shards) if processes.count() > 1 else None
    config = compose(["task=cola", "method=ft"])
    recipe = Recipe(lr=1e-5, epochs=1, warmup_steps=0, optimizer=config.optimizer, accumulate=1, reset="factors")
    merged = device.type == "cuda" and not shards and not variant.recomputed
    with (
        sharded(model, device) if shards else nullcontext(),
        replaying(device, "always" if variant.captured else "never") as replay,
        materialised(model, largest=LARGEST if merged else 0),
        recomputed(model, variant.recomputed),
    ):
        training = Training(model, method, recipe, steps_per_epoch=2, device=device)
        yield training, replay(optimisation(training, autocast(resolve_precision("auto", device), device), together))


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that all processes take for an action, which they begin together."""
    wait_for_gpu()
    processes.wait()
    started = time.perf_counter()
    action()
    wait_for_gpu()
    processes.wait()
    return time.perf_counter() - started


def random_batch(model: str, device: torch.device) -> Batch:
    """Return random tokens of one length, with a label for each row or, of a decoder, for each token."""
    rows, length = SHAPES[device.type][model]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 500, (rows, length), generator=generator)
    labels = ids.clone() if model == "llama" else torch.randint(2, (rows,), generator=generator)
    return {"input_ids": ids.to(device), "labels": labels.to(device)}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--phase"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        start(main, __doc__, existing_folder, number, rest=one_of(*PHASES))
