"""Memory and time of fine-tuning a 7B Llama on one GPU: full fine-tuning, LoRA, ROSA, and A alone in a random basis.

    python -m scripts.benchmarks.sizes [results/benchmarks] [seconds in which to begin a variant] [pattern of variants]

Prints what it measures as it goes, then a table, and writes it as JSON. Random weights of Llama-2-7B's shape are made
on the GPU, r = 8 on all linear layers of the blocks, bfloat16 products. A step is forward, backward and AdamW on 4 x
128 tokens, every one with a label, run eagerly. The base is float32, or its linear layers are in another base_dtype.
With a pattern, only variants whose whole name matches it are measured, such as ``LoRA, nf4`` or ``.*, (int8|nf4)``; of
8 and 4 bits there are none without one. On such a base ROSA has room for 10 draws, which every step multiplies by.
On a CPU: a Llama of 2 layers and 2,000 words, with float32 products.

``weights_GB``   memory after the method is attached: weights and factors
``peak_GB``      peak memory during a step, weights included
``attach_s``     time to attach; ROSA draws its first subspaces then
``step_ms``      median time of a step
``resample_s``   time to draw all matrices again, one by one
``resample_GB``  peak memory of that above what a step leaves allocated

A variant that does not fit into the GPU's memory has ``fits`` 0. One that would begin too late is left out. A GB is
10^9 bytes. On a CPU, memory is that of the process.
"""

import gc
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from rosa_bench.api import compose
from rosa_bench.data.batches import Batch
from rosa_bench.methods.base import Method, RunLength
from rosa_bench.models.attention import without_cudnn_attention
from rosa_bench.models.base_dtype import store_in
from rosa_bench.system.resources.meter import peak_bytes, release_unused, reset_peak
from scripts.arguments import RESULTS, existing_folder, number, regular_expression, start
from scripts.benchmarks.decoder_step import decoder
from scripts.benchmarks.step import ready
from scripts.reporting import Figures, interleaved, wait_for_gpu, with_extra_bytes, write_report

RANK, ROWS, LENGTH = 8, 4, 128
LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False}  # fmt: skip
SMALL = {"vocab_size": 2000, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 256, "tie_word_embeddings": False}  # fmt: skip
METHODS = {"FT": ["method=ft"], "LoRA": ["method=lora"], "ROSA": ["method=rosa"],
           "ROSA, A alone in a random basis": ["method=rosa", "method.train=a", "method.basis=random"]}  # fmt: skip
# (base, method), the slow ones last: ROSA draws twice, which takes almost a minute
VARIANTS = [
    ("float32", "LoRA"), ("bfloat16", "LoRA"), ("float32", "FT"), ("float32", "ROSA, A alone in a random basis"),
    ("bfloat16", "ROSA, A alone in a random basis"), ("bfloat16", "ROSA"), ("float32", "ROSA"),
]  # fmt: skip
QUANTISED = [
    (base, name) for base in ("int8", "nf4") for name in ("LoRA", "ROSA, A alone in a random basis", "ROSA")
]  # fmt: skip
DRAWS = 10


def main(folder: Path = RESULTS, limit_s: float = 110, pattern: str | None = None) -> None:
    """Measure every variant, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures, began = {"model": shape_figures(device)}, time.perf_counter()
    for base, name in chosen(pattern):
        elapsed_s = time.perf_counter() - began
        if elapsed_s > limit_s:
            print(f"{name}, {base}: left out, for lack of time", flush=True)
            continue
        found = variant(name, base, device)
        figures[f"{name}, {base}"] = found
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{elapsed_s:5.1f} s  {name}, {base}: {shown}", flush=True)
    write_report("sizes", figures, folder=folder, what=__doc__, device=device)


def chosen(pattern: str | None) -> list[tuple[str, str]]:
    """Return the variants to measure: all that match the pattern, or those that need no optional package."""
    if pattern is None:
        return VARIANTS
    return [(base, name) for base, name in VARIANTS + QUANTISED if re.fullmatch(pattern, f"{name}, {base}")]


def shape_figures(device: torch.device) -> Figures:
    """Return the number of weights, and the memory that weights, gradients and two moments take by the numbers.

    Mixed precision with 16 bits for all four takes a half of float32's, and weights of 16 bits alone an eighth.
    """
    shape = LLAMA if device.type == "cuda" else SMALL
    count = sum(weight.numel() for weight in decoder(torch.device("meta"), chunked=False, shape=shape).parameters())
    return {"weights_M": count / 1e6, "FT_float32_GB": 16 * count / 1e9, "FT_16_bits_GB": 8 * count / 1e9,
            "weights_16_bits_GB": 2 * count / 1e9}  # fmt: skip


def variant(name: str, base: str, device: torch.device) -> Figures:
    """Measure one method on one kind of base, in the memory that nothing else holds."""
    release_unused()
    try:
        with ExitStack() as stack, without_cudnn_attention():
            return measured(stack, name, base, device)
    except torch.cuda.OutOfMemoryError as error:
        print(f"{name}, {base}: {str(error).partition('.')[0]}", flush=True)
        return {"fits": 0.0, "peak_GB": peak_bytes(device) / 1e9}
    finally:
        release_unused()


def measured(stack: ExitStack, name: str, base: str, device: torch.device) -> Figures:
    """Return the figures of a variant that fits."""
    reset_peak(device)
    method = method_of(name)
    model, attach_s = attached(method, base, device)
    held = allocated(device)
    step = ready(stack, lambda: model, random_batch(device), choice="none", graphs="never", device=device)
    reset_peak(device)
    step_s = interleaved({"step": step}, repeats=5 if device.type == "cuda" else 2)["step"]
    figures = {"fits": 1.0, "weights_GB": held / 1e9, "peak_GB": peak_bytes(device) / 1e9, "attach_s": attach_s,
               "step_ms": 1e3 * step_s}  # fmt: skip
    if name.startswith("ROSA"):
        figures |= resampled(method, model, device)
    return figures


def method_of(name: str) -> Method:
    """Return the method of a variant."""
    words = ["task=new_language", "model=smollm2_135m", "protocol=fair", f"rank={RANK}", *METHODS[name]]
    if name.startswith("ROSA"):
        words += ["method.resample_every=1", "method.resample_unit=epochs"]
    return compose(words).method


def attached(method: Method, base: str, device: torch.device) -> tuple[nn.Module, float]:
    """Return a model with the method attached, and the seconds that attaching took."""
    model = decoder(device, shape=LLAMA if device.type == "cuda" else SMALL)
    store_in(base, model, head=method.head)
    wait_for_gpu()
    started = time.perf_counter()
    model = method.attach(model)
    method.before_training(model, RunLength(1, DRAWS + 1))
    wait_for_gpu()
    return model, time.perf_counter() - started


def resampled(method: Method, model: nn.Module, device: torch.device) -> Figures:
    """Draw all matrices again, one by one, and return the seconds and the extra memory."""
    resample: Callable[..., object] = method.resample  # pyrefly: ignore[missing-attribute]
    wait_for_gpu()
    started = time.perf_counter()
    _, extra = with_extra_bytes(lambda: resample(model, 1, headroom_bytes=1), device)
    wait_for_gpu()
    return {"resample_s": time.perf_counter() - started, "resample_GB": extra / 1e9}


def allocated(device: torch.device) -> int:
    """Return the memory that is allocated now, on a CPU that of the process."""
    gc.collect()
    if device.type == "cpu":
        return peak_bytes(device)
    return torch.cuda.memory_allocated(device)


def random_batch(device: torch.device) -> Batch:
    """Return rows of random tokens, which are their own labels."""
    ids = torch.randint(5, 2000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "labels": ids.clone()}


if __name__ == "__main__":
    start(main, __doc__, existing_folder, number, regular_expression)
