"""Cost of a decoder's training step: the loss from all logits and in chunks, captured, and with compiled blocks.

    python -m scripts.benchmarks.decoder_step [results/benchmarks] [seconds to prepare in] [pattern of variants]

Prints what it measures as it goes, then a table, and writes it as JSON. A step is forward, backward and AdamW on 16 x
256 tokens, every one with a label. SmolLM2-135M's shape with random weights in bfloat16 on a GPU; a Llama of 4 layers
and 16,384 words on 4 x 64 tokens in float32 on a CPU. Times are medians of interleaved repetitions; compare their
ratios within one run. Variants that are not ready in time are left out. With a pattern, only variants whose whole name
matches it are measured, among them ``max``, which takes minutes to compile. On a GPU, the kernels of the first and the
last one are then printed too.

Methods adapt all linear layers, as the task's recipe says, or with ``attention`` those of attention alone. *Joined*
variants compute layers with the same input in one product, and cast frozen weights once.

``peak_MB`` is the peak memory of making, warming up and capturing a variant. ``first_s`` is the time that takes.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rosa_bench.api import compose
from rosa_bench.data.batches import Batch
from rosa_bench.models.attention import use_fast_attention, without_cudnn_attention
from rosa_bench.models.base_dtype import store_in
from rosa_bench.models.logits.chunked_loss import use_chunked_loss
from rosa_bench.models.logits.cross_entropy import chunk_size
from scripts.arguments import RESULTS, existing_folder, number, regular_expression, start
from scripts.benchmarks.step import ready
from scripts.reporting import Figures, interleaved, with_extra_bytes, write_report

RANK, REPEATS = 8, 15
SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192}  # fmt: skip
SMALL = {"vocab_size": 16384, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
         "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
SIZES = {"cuda": (16, 256), "cpu": (4, 64)}  # rows, length


def main(folder: Path = RESULTS, limit_s: float = 600, pattern: str | None = None) -> None:
    """Measure every variant, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, length = SIZES[device.type]
    words = (SMOLLM2 if device.type == "cuda" else SMALL)["vocab_size"]
    figures = {
        f"step {rows} x {length}": steps(device, limit_s, pattern),
        "logits": logits(rows, length, words, device),
    }
    write_report("decoder_step", figures, folder=folder, what=__doc__, device=device)


def variants(device: torch.device) -> dict[str, tuple[Callable[[], nn.Module], str, str]]:
    """Return how to make each variant's model, how it is compiled, and whether it is captured, what matters most first.

    *All logits* is the library's own loss, which also makes a cache of keys and values in each step.
    """
    made = {name: partial(ours, name, device) for name in ("lora", "rosa", "ft")}
    plain = {name: partial(ours, name, device, chunked=False) for name in made}
    chosen: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
        f"{name}, all logits": (make, "none", "never") for name, make in plain.items()
    }
    chosen |= {f"{name}, chunks": (make, "none", "never") for name, make in made.items()}
    chosen["peft_lora, all logits"] = (partial(peft_lora, device), "none", "never")
    if device.type == "cuda":
        chosen |= {f"{name}, all logits, graph": (make, "none", "always") for name, make in plain.items()}
        chosen |= {f"{name}, chunks, graph": (make, "none", "always") for name, make in made.items()}
    attention = {name: partial(ours, name, device, targets="attention") for name in ("lora", "rosa")}
    captured = ", graph" if device.type == "cuda" else ""
    chosen |= {f"{name}, chunks, compiled{captured}": (make, "default", "always") for name, make in made.items()}
    chosen |= {
        f"{name}, attention, chunks, compiled{captured}": (make, "default", "always")
        for name, make in attention.items()
    }
    chosen |= {name.replace("chunks, ", "chunks, joined, "): chosen[name] for name in chosen if "compiled" in name}
    narrow = partial(ours, "lora", device, targets="attention", base="bfloat16")
    chosen[f"lora, attention, bfloat16 base, chunks, joined, compiled{captured}"] = (narrow, "default", "always")
    chosen[f"lora, attention, chunks, joined, max{captured}"] = (attention["lora"], "max", "always")
    return chosen | {f"{name}, chunks, max{captured}": (make, "max", "always") for name, make in made.items()}


def steps(device: torch.device, limit_s: float, pattern: str | None) -> Figures:
    """Return each variant's time, peak memory, time to prepare and loss."""
    batch, began = random_batch(device), time.perf_counter()
    actions: dict[str, Callable[[], object]] = {}
    figures: Figures = {}
    with ExitStack() as stack, without_cudnn_attention():
        for name, (make, choice, graphs) in variants(device).items():
            if choice == "max" if pattern is None else not re.fullmatch(pattern, name):
                continue
            started = time.perf_counter()
            if started - began > limit_s:
                print(f"{name}: left out, for lack of time", flush=True)
                continue
            torch.manual_seed(0)
            prepare = partial(
                ready, stack, make, batch, choice=choice, graphs=graphs, device=device, join="joined" in name
            )
            actions[name], memory = with_extra_bytes(prepare, device)
            loss = float(actions[name]())  # pyrefly: ignore[bad-argument-type]
            taken = time.perf_counter() - started
            figures |= {f"{name}, first_s": taken, f"{name}, loss": loss, f"{name}, peak_MB": memory / 1e6}
            print(f"{name}: ready in {taken:.1f} s, {memory / 1e6:.0f} MB, loss {loss:.5f}", flush=True)
        times = interleaved(actions, repeats=REPEATS if device.type == "cuda" else 3)
        if pattern is not None and device.type == "cuda":
            for action in (next(iter(actions.values())), list(actions.values())[-1]):
                print_kernels(action)
    for name, time_s in times.items():
        print(f"{name}: {1e3 * time_s:.2f} ms", flush=True)
    figures |= {f"{name}, ms": 1e3 * time_s for name, time_s in times.items()}
    peft = times.get("peft_lora, all logits")
    return figures | {f"{name}, to PEFT": time_s / peft for name, time_s in times.items() if peft}


def print_kernels(step: Callable[[], object]) -> None:
    """Print the kernels of ten steps by the time that they take."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    table = profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=70)
    print(table, flush=True)


def logits(rows: int, length: int, words: int, device: torch.device) -> Figures:
    """Return the memory that logits take by formula: all of them in the plain loss, and those of a chunk.

    Both hold logits in the product's type, their float32 form, and its log-softmax. The plain loss keeps the last for
    the backward pass, where its gradient joins it. A chunk's log-softmax becomes the gradient in place.
    """
    product = 2 if device.type == "cuda" else 0  # bytes; without autocast the logits are float32 already
    tokens = rows * (length - 1)
    chunk = tokens / -(-tokens // chunk_size(words, device))
    return {
        "all, MB": rows * length * words * (product + 4 + 4) / 1e6,
        "chunk, MB": chunk * words * (product + 4 + 4) / 1e6,
        "tokens in a chunk": chunk,
    }


def random_batch(device: torch.device) -> Batch:
    """Return rows of random tokens, which are their own labels."""
    rows, length = SIZES[device.type]
    ids = torch.randint(5, 16000, (rows, length), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "labels": ids.clone()}


def decoder(device: torch.device, *, chunked: bool = True, shape: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """Return a Llama with random weights: of ``shape``, by default the benchmark's."""
    torch.manual_seed(0)
    shape = shape or {**(SMOLLM2 if device.type == "cuda" else SMALL), "tie_word_embeddings": True}
    with device:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    use_fast_attention(model)
    if chunked and not use_chunked_loss(model):
        raise RuntimeError("this version of transformers changes a Llama's logits")
    return model.train()


def ours(
    method: str, device: torch.device, *, chunked: bool = True, targets: str | None = None, base: str = "float32"
) -> nn.Module:
    """Return the decoder with one of our methods attached: on ``targets`` or, as the recipe says, all linear layers.

    The output layer is frozen. Frozen weights are stored in ``base``.
    """
    model = decoder(device, chunked=chunked)
    words = ["task=new_language", f"method={method}", f"rank={RANK}", "model=smollm2_135m", "protocol=fair"]
    chosen = compose([*words, *([] if targets is None else [f"method.targets={targets}"])]).method
    store_in(base, model, head=chosen.head)
    return chosen.attach(model)


def peft_lora(device: torch.device) -> nn.Module:
    """Return the decoder with HF PEFT's LoRA on the same layers."""
    targets = r".*(self_attn\.(q|k|v|o)|mlp\.(gate|up|down))_proj"
    return get_peft_model(decoder(device, chunked=False), LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))


if __name__ == "__main__":
    start(main, __doc__, existing_folder, number, regular_expression)
